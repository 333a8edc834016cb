"""Local attention by the kernels of csrc/cuda/plain_*.cuh, in emulation."""

import torch
from torch import Tensor

from cuda.plans import plan, run, sum_parts
from cuda.structs import STORAGE, LocalBackward, LocalForward, LocalShape, Map, PlainPlan, PlainWorkspace, address
from sasa.ops.precision import compute_dtype, empty_map


def nan_map(like: Tensor, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """`empty_map`, filled with NaN."""
    return empty_map(like, channels, size=size).fill_(float("nan"))


def shape_of(query: Tensor, value: Tensor, kernel_size: int, num_heads: int, padding: str, scale: float) -> LocalShape:
    batch, channels, height, width = query.shape
    return LocalShape(
        batch, num_heads, channels // num_heads, value.shape[1] // num_heads, height, width, kernel_size,
        padding == "mask", scale, STORAGE[query.dtype],
    )  # fmt: skip


def tables(rel_row: Tensor | None, rel_col: Tensor | None, dtype: torch.dtype) -> list[Tensor | None]:
    return [None if t is None else t.to(dtype).contiguous() for t in (rel_row, rel_col)]


def forward(
    query: Tensor, key: Tensor | None, value: Tensor, rel_row: Tensor | None, rel_col: Tensor | None, *,
    kernel_size: int, num_heads: int, padding: str = "zeros", scale: float = 1.0, content: bool = True,
    pool: int = 1, gain: Tensor | None = None, shift: Tensor | None = None, relu: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and log-sum-exp."""
    assert content == (key is not None)
    dtype = compute_dtype(query)
    row, col, gain, shift = (None if t is None else t.to(dtype).contiguous() for t in (rel_row, rel_col, gain, shift))
    size = (-(-query.shape[2] // pool), -(-query.shape[3] // pool))
    output = nan_map(query, value.shape[1], size)
    logsumexp = query.new_full((query.shape[0], num_heads, *query.shape[2:]), float("nan"), dtype=dtype)
    call = LocalForward(
        shape_of(query, value, kernel_size, num_heads, padding, scale),
        Map.of(query), Map.of(key), Map.of(value), address(row), address(col),
        Map.of(output), logsumexp.data_ptr(), pool, address(gain), address(shift), relu,
    )  # fmt: skip
    launch = plan("plain_forward", call, PlainPlan).queries
    run(launch, call, reads=[query, key, value, row, col, gain, shift], writes=[output, logsumexp])
    return output, logsumexp


def backward(
    grad_output: Tensor, query: Tensor, key: Tensor | None, value: Tensor, rel_row: Tensor | None,
    rel_col: Tensor | None, logsumexp: Tensor, *,
    kernel_size: int, num_heads: int, padding: str = "zeros", scale: float = 1.0, content: bool = True,
) -> list[Tensor | None]:  # fmt: skip
    """Gradients of query, key, value, rel_row, rel_col; None where the input is None."""
    assert content == (key is not None)
    dtype = compute_dtype(query)
    row, col = tables(rel_row, rel_col, dtype)
    grads = [None if t is None else nan_map(t, t.shape[1]) for t in (query, key, value)]
    call = LocalBackward(
        shape_of(query, value, kernel_size, num_heads, padding, scale),
        Map.of(grad_output), Map.of(query), Map.of(key), Map.of(value),
        address(row), address(col), logsumexp.data_ptr(), *(Map.of(g) for g in grads),
    )  # fmt: skip
    planned = plan("plain_backward", call, PlainPlan)
    delta = query.new_full((planned.delta_elements,), float("nan"), dtype=dtype)
    parts = [None if t is None else t.new_full((planned.parts, *t.shape), float("nan")) for t in (row, col)]
    workspace = PlainWorkspace(delta.data_ptr(), *(address(p) for p in parts))
    inputs = [grad_output, query, key, value, row, col, logsumexp]
    run(planned.queries, call, workspace, reads=inputs, writes=[grads[0], delta, *parts])
    run(planned.keys, call, workspace, reads=[*inputs, delta], writes=grads[1:])
    return [*grads, *(None if p is None else sum_parts(p) for p in parts)]
