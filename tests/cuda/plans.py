"""The plans of csrc/cuda, called from Python, and their launches in emulation."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from cuda.emulator import FLAGS, HERE, Counts, compile_shared, launch
from cuda.structs import Launch, SumParts

SHARED_LIMIT = 227 * 1024  # bytes of a block: H100, H200
Planned = TypeVar("Planned", bound=ctypes.Structure)

PLANS = "local_forward local_backward plain_forward plain_backward block_forward block_backward".split()


@cache
def plans() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compile_shared(HERE / "plans.cpp", [*FLAGS, "-Wextra", "-Werror"])))
    for name in PLANS:
        getattr(library, f"sasa_plan_{name}").restype = ctypes.c_char_p
    return library


def plan(name: str, call: ctypes.Structure, result: type[Planned], *more: object, limit: int = SHARED_LIMIT) -> Planned:
    """A plan for the call. `more` are further arguments of the function. Raises ValueError with the plan's refusal."""
    planned = result()
    function = getattr(plans(), f"sasa_plan_{name}")
    refusal = function(ctypes.byref(call), ctypes.c_size_t(limit), ctypes.byref(planned), *more)
    if refusal:
        raise ValueError(refusal.decode())
    return planned


def run(
    planned: Launch, *arguments: ctypes.Structure, reads: Sequence[Tensor | None], writes: Sequence[Tensor | None],
    counts: Counts | None = None,
) -> None:  # fmt: skip
    """Launch in emulation; the kernel may access only these tensors."""
    launch(
        planned.source.decode(), planned.kernel.decode(), planned.variant(), grid=list(planned.grid),
        threads=planned.threads, shared=planned.shared, arguments=arguments,
        reads=[t for t in reads if t is not None], writes=[t for t in writes if t is not None], counts=counts,
    )  # fmt: skip


def sum_parts(parts: Tensor) -> Tensor:
    """The sum over the first dimension, by the kernel."""
    total = torch.full_like(parts[0], float("nan"))
    planned = Launch()
    of_double = int(parts.dtype == torch.float64)
    plans().sasa_plan_sum_parts(ctypes.c_int64(total.numel()), of_double, ctypes.byref(planned))
    call = SumParts(parts.data_ptr(), total.data_ptr(), parts.shape[0], total.numel())
    run(planned, call, reads=[parts], writes=[total])
    return total
