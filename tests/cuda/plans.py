"""Plans of csrc/cuda, called from Python, and their launches in emulation."""

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from cuda import emulator
from cuda.structs import Launch, SumParts

FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]


@cache
def plans() -> ctypes.CDLL:
    """csrc/cuda/*_plan.h."""
    return ctypes.CDLL(str(emulator.compile_shared(emulator.HERE / "plans.cpp", FLAGS)))


def plan(name: str, call: ctypes.Structure, result: type[ctypes.Structure]):
    """`name`(call) of the plans."""
    planned = result()
    getattr(plans(), name)(ctypes.byref(call), ctypes.byref(planned))
    return planned


def run(
    launch: Launch, *arguments: ctypes.Structure, reads: Sequence[Tensor | None], writes: Sequence[Tensor | None],
    counts: emulator.Counts | None = None,
) -> None:  # fmt: skip
    """Launch in emulation; it may touch nothing but the tensors given."""
    emulator.launch(
        launch.source.decode(), launch.kernel.decode(), tuple(launch.values().items()),
        grid=tuple(launch.grid), threads=launch.threads, shared=launch.shared, arguments=arguments,
        reads=[t for t in reads if t is not None], writes=[t for t in writes if t is not None], counts=counts,
    )  # fmt: skip


def sum_parts(parts: Tensor) -> Tensor:
    """The sum over the first dimension, by the kernel."""
    total = torch.full_like(parts[0], float("nan"))
    launch = Launch()
    of_double = int(parts.dtype == torch.float64)
    plans().plan_sum_parts(ctypes.c_int64(total.numel()), of_double, ctypes.byref(launch))
    call = SumParts(parts.data_ptr(), total.data_ptr(), parts.shape[0], total.numel())
    run(launch, call, reads=[parts], writes=[total])
    return total
