"""Local attention through the CUDA plans and the emulated kernels."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda.emulator import Counts
from cuda.plans import SHARED_LIMIT, plan, run
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
    address,
)

BLOCKS = 1024  # that a launch should have, as kBlocksAim in local_plan.h


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


def plan_forward(call: LocalForward, limit: int = SHARED_LIMIT, blocks: int = BLOCKS) -> tuple[Launch, LocalTiling]:
    """The launch and its tiling. Raises ValueError with the plan's refusal."""
    tiling = LocalTiling()
    return plan("local_forward", call, Launch, ctypes.byref(tiling), ctypes.c_int64(blocks), limit=limit), tiling


def plan_backward(call: LocalBackward, limit: int = SHARED_LIMIT, blocks: int = BLOCKS) -> LocalBackwardPlan:
    """The launches. Raises ValueError with the plan's refusal."""
    return plan("local_backward", call, LocalBackwardPlan, ctypes.c_int64(blocks), limit=limit)


def forward(query, key, value, rel_row, rel_col, options: Options, *, pool=1, gain=None, shift=None, relu=False,
            limit=SHARED_LIMIT, blocks=BLOCKS, counts=None):  # fmt: skip
    """Output and log-sum-exp; both are filled with NaN before. Raises ValueError with the plan's refusal."""
    output = torch.full_like(query[:, :, ::pool, ::pool], float("nan"), memory_format=torch.channels_last)
    logsumexp = torch.full((len(query), options.heads, *query.shape[2:]), float("nan"))
    call = LocalForward(
        shape_of(query, options), Map.of(query), Map.of(key), Map.of(value), address(rel_row), address(rel_col),
        Map.of(output), logsumexp.data_ptr(), pool, address(gain), address(shift), relu,
    )  # fmt: skip
    planned, tiling = plan_forward(call, limit, blocks)
    reads = [query, key, value, rel_row, rel_col, gain, shift]
    run(planned, call, tiling, reads=reads, writes=[output, logsumexp], counts=counts)
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
    plans = plan_backward(call, limit, blocks)
    delta, parts = (torch.full((size // 4,), nan) for size in (plans.delta_bytes, plans.parts_bytes))
    work = LocalWork(delta.data_ptr(), parts.data_ptr())
    inputs = (grad_output, query, key, value, rel_row, rel_col, logsumexp)
    writes = [*grads, *tables, delta, parts]
    for name, tiling in zip(
        ("queries", "sums", "keys"), (plans.queries_tiling, plans.queries_tiling, plans.keys_tiling), strict=True
    ):
        planned = getattr(plans, name)
        if planned.source is None:
            continue
        counted = None if counts is None else counts.setdefault(name, Counts())
        run(planned, call, tiling, work, reads=inputs, writes=writes, counts=counted)
    return *grads, *(None if t is None else t.sum(0) for t in tables)
