"""Local attention through the CUDA plans and the emulated kernels."""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from cuda.emulator import FLAGS, HERE, Counts, compile_shared, launch
from cuda.structs import (
    STORAGE,
    Launch,
    LocalBackward,
    LocalBackwardPlan,
    LocalForward,
    LocalShape,
    LocalTiling,
    LocalWork,
    Map,
)  # fmt: skip

SHARED_LIMIT = 227 * 1024  # of a block: H100, H200
BLOCKS = 1024  # that a launch should have, as kBlocksAim in local_plan.h


@cache
def plans() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compile_shared(HERE / "plans.cpp", FLAGS)))
    for name in ("sasa_plan_local_forward", "sasa_plan_local_backward"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


@dataclass(frozen=True)
class Options:
    window: int = 7
    heads: int = 2
    head_dim: int = 16
    padding: str = "zeros"
    scale: float = 1.0
    content: bool = True
    position: bool = True


def shape_of(query: Tensor, options: Options) -> LocalShape:
    batch, _, height, width = query.shape
    return LocalShape(
        batch, options.heads, options.head_dim, options.head_dim, height, width, options.window,
        options.padding == "mask", options.scale, STORAGE[query.dtype],
    )  # fmt: skip


def run(planned: Launch, arguments, reads, writes, counts: Counts | None = None) -> None:
    launch(
        planned.source.decode(), planned.kernel.decode(), planned.variant(), grid=list(planned.grid),
        threads=planned.threads, shared=planned.shared, arguments=arguments,
        reads=[t for t in reads if t is not None], writes=writes, counts=counts,
    )  # fmt: skip


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def forward(query, key, value, rel_row, rel_col, options: Options, *, pool=1, gain=None, shift=None, relu=False,
            limit=SHARED_LIMIT, blocks=BLOCKS, counts=None):  # fmt: skip
    """Output and log-sum-exp; both are filled with NaN before. Raises ValueError with the plan's refusal."""
    output = torch.full_like(query[:, :, ::pool, ::pool], float("nan"), memory_format=torch.channels_last)
    logsumexp = torch.full((len(query), options.heads, *query.shape[2:]), float("nan"))
    call = LocalForward(
        shape_of(query, options), Map.of(query), Map.of(key), Map.of(value), address(rel_row), address(rel_col),
        Map.of(output), logsumexp.data_ptr(), pool, address(gain), address(shift), relu,
    )  # fmt: skip
    planned, tiling = Launch(), LocalTiling()
    refusal = plans().sasa_plan_local_forward(
        ctypes.byref(call),
        ctypes.c_size_t(limit),
        ctypes.byref(planned),
        ctypes.byref(tiling),
        ctypes.c_int64(blocks),
    )
    if refusal:
        raise ValueError(refusal.decode())
    run(planned, [call, tiling], (query, key, value, rel_row, rel_col, gain, shift), [output, logsumexp], counts)
    return output, logsumexp


def backward(grad_output, query, key, value, rel_row, rel_col, logsumexp, options: Options, *, grads=None,
             limit=SHARED_LIMIT, blocks=BLOCKS, counts: dict[str, Counts] | None = None):  # fmt: skip
    """Gradients of query, key, value, rel_row and rel_col (None where not given); of the tables summed over images.

    `grads`: maps for the first three, filled with NaN before. `counts`: of each kernel, filled in if given.
    """
    nan = float("nan")
    if grads is None:
        grads = [None if t is None else torch.full_like(t, nan) for t in (query, key, value)]
    tables = [None if t is None else torch.full((len(query), *t.shape), nan) for t in (rel_row, rel_col)]
    call = LocalBackward(
        shape_of(query, options), Map.of(grad_output), Map.of(query), Map.of(key), Map.of(value),
        address(rel_row), address(rel_col), address(logsumexp), *(Map.of(g) for g in grads), *map(address, tables),
    )  # fmt: skip
    plan = LocalBackwardPlan()
    refusal = plans().sasa_plan_local_backward(
        ctypes.byref(call), ctypes.c_size_t(limit), ctypes.byref(plan), ctypes.c_int64(blocks)
    )
    if refusal:
        raise ValueError(refusal.decode())
    delta, parts = (torch.full((size // 4,), nan) for size in (plan.delta_bytes, plan.parts_bytes))
    work = LocalWork(delta.data_ptr(), parts.data_ptr())
    inputs = (grad_output, query, key, value, rel_row, rel_col, logsumexp)
    outputs = [t for t in (*grads, *tables) if t is not None]
    for name, tiling in (("queries", plan.queries_tiling), ("sums", plan.queries_tiling), ("keys", plan.keys_tiling)):
        planned = getattr(plan, name)
        if planned.source is None:
            continue
        counted = None if counts is None else counts.setdefault(name, Counts())
        run(planned, [call, tiling, work], inputs, [*outputs, delta, parts], counted)
    return *grads, *(None if t is None else t.sum(0) for t in tables)
