"""Local attention in Triton: `eager.forward` and `eager.backward` for CUDA tensors.

Shapes: B images, N heads, D query and key channels of a head, E value channels of a head, H x W the map, K the kernel
size, O = 2 * KP offsets (KP a power of two), DP the channels padded to a power of two.
"""

import contextlib
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sasa.ops.arguments import LocalBackward, LocalForward
from sasa.ops.gpu.local_forward import local_forward
from sasa.ops.gpu.local_keys import local_keys
from sasa.ops.gpu.local_queries import local_queries
from sasa.ops.gpu.tuning import TileSizes, power_of_two, tiling
from sasa.ops.precision import empty_map

ARCHITECTURE = 90  # assumed for CPU tensors: in the interpreter, and when compiling without a GPU
# The approximate number: it fills any GPU many times over, and each program reuses the indices, masks and embeddings
# of its tile for many images. It is the same for every GPU, because the order of sums depends on it.
PROGRAMS = 4096


def forward(call: LocalForward) -> tuple[Tensor, Tensor]:
    """Eq. 3: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W) in float32."""
    query, key, value, rel_row, rel_col = call.inputs
    kernel_size, num_heads, padding, scale = call.options
    rel_row, rel_col = _narrow(rel_row), _narrow(rel_col)
    output = empty_map(query, value.shape[1])
    logsumexp = query.new_empty((query.shape[0], num_heads, *query.shape[2:]), dtype=torch.float32)
    maps = (query, key, value, output)
    cut = _tiling("forward", maps, kernel_size, num_heads)
    _run(
        local_forward, cut, query, num_heads,
        query, key, value, rel_row, rel_col, output, logsumexp,
        *_strides(*maps), *_rel_strides(rel_row, rel_col),
        scale=scale, maps=maps,
        **_constants(query, key, value, rel_row, kernel_size, num_heads), MASKED=padding == "mask",
    )  # fmt: skip
    return output, logsumexp


def backward(
    call: LocalBackward, into: tuple[Tensor, Tensor | None, Tensor] | None = None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Gradients for query, key, value, rel_row, rel_col (None where the input was None).

    Args:
        call: inputs and log-sum-exp of `forward`, and the output's gradient.
        into: maps to write the gradients of query, key and value into; None allocates new ones.
    """
    grad_output, (query, key, value, rel_row, rel_col), logsumexp, options = call
    kernel_size, num_heads, padding, scale = options
    grad_query, grad_key, grad_value = into or (
        empty_map(query, query.shape[1]),
        None if key is None else empty_map(key, key.shape[1]),
        empty_map(value, value.shape[1]),
    )
    rel_row, rel_col = _narrow(rel_row), _narrow(rel_col)
    logsumexp = logsumexp.contiguous()
    delta = torch.empty_like(logsumexp)
    constants = _constants(query, key, value, rel_row, kernel_size, num_heads)
    grad_rel = None

    maps = (grad_output, query, key, value, grad_query)
    cut = _tiling("queries", maps, kernel_size, num_heads)
    if rel_row is not None:
        parts = math.prod(_grid(cut, query, num_heads)[1:])
        grad_rel = query.new_empty((parts, num_heads, 2 * constants["KP"], constants["DP"]), dtype=torch.float32)
    _run(
        local_queries, cut, query, num_heads,
        grad_output, query, key, value, rel_row, rel_col, logsumexp, delta, grad_query, grad_rel,
        *_strides(*maps), *_rel_strides(rel_row, rel_col),
        scale=scale, maps=maps,
        **constants, MASKED=padding == "mask", SINGLE=cut.single,
    )  # fmt: skip

    maps = (grad_output, query, key, value, grad_key, grad_value)
    cut = _tiling("keys", maps, kernel_size, num_heads)
    _run(
        local_keys, cut, query, num_heads,
        grad_output, query, key, value, rel_row, rel_col, logsumexp, delta, grad_key, grad_value,
        *_strides(*maps), *_rel_strides(rel_row, rel_col),
        scale=scale, maps=maps, **constants,
    )  # fmt: skip
    grad_row, grad_col = _grad_embeddings(grad_rel, rel_row, rel_col, constants["KP"])
    return grad_query, grad_key, grad_value, grad_row, grad_col


def _grad_embeddings(grad_rel, rel_row, rel_col, offsets: int) -> tuple[Tensor | None, Tensor | None]:
    """Sum of the programs' parts (parts, N, O, DP), in a fixed order, and its two halves (N, K, D / 2)."""
    if grad_rel is None:
        return None, None
    total_NOD = grad_rel.sum(0)
    kernel_size, half = rel_row.shape[1:]
    grad_row = total_NOD[:, :kernel_size, :half]
    grad_col = total_NOD[:, offsets : offsets + kernel_size, half : 2 * half]
    return grad_row.to(rel_row.dtype).contiguous(), grad_col.to(rel_col.dtype).contiguous()


def _run(kernel, cut: TileSizes, query: Tensor, num_heads: int, *arguments, scale, maps, **constants) -> None:
    """Launch one program for each group of heads, tile and chunk of images."""
    batch, _, height, width = query.shape
    grid = _grid(cut, query, num_heads)
    if batch == 0:
        return
    with torch.cuda.device(query.device) if query.is_cuda else contextlib.nullcontext():
        kernel[(math.prod(grid),)](
            *arguments, batch, -(-batch // grid.chunks), num_heads, height, width, grid.columns, scale,
            **constants, TH=cut.tile[0], TW=cut.tile[1], RS=cut.rows, CW=cut.columns, STEPS=cut.steps,
            GN=cut.heads, GT=cut.across, PRECISION=_dot_precision(query), WIDE=any(map(_is_wide, maps)),
            num_warps=cut.num_warps, num_stages=cut.num_stages,
        )  # fmt: skip


def _tiling(kernel: str, maps: Sequence[Tensor | None], kernel_size: int, num_heads: int) -> TileSizes:
    there = [m for m in maps if m is not None]
    architecture = ARCHITECTURE
    if there[0].is_cuda:
        major, minor = torch.cuda.get_device_capability(there[0].device)
        architecture = 10 * major + minor
    channels = max(m.shape[1] for m in there) // num_heads
    apart = any(m.stride(1) != 1 for m in there)
    return tiling(kernel, channels, kernel_size, there[0].element_size(), architecture, apart)


class LaunchGrid(NamedTuple):
    """Programs: the product of the four. A program works through the images of its chunk, one after the other."""

    heads: int  # groups of them
    rows: int  # of tiles
    columns: int  # of programs
    chunks: int


def _grid(cut: TileSizes, query: Tensor, num_heads: int) -> LaunchGrid:
    batch, _, height, width = query.shape
    heads = -(-num_heads // cut.heads)
    rows, columns = -(-height // cut.tile[0]), -(-width // (cut.tile[1] * cut.across))
    images = 1 if cut.single else max(1, batch * heads * rows * columns // PROGRAMS)
    return LaunchGrid(heads, rows, columns, -(-batch // images))


def _constants(query, key, value, rel_row, kernel_size: int, num_heads: int) -> dict[str, Any]:
    """Return the compile-time constants of the kernels."""
    head_dim, value_dim = query.shape[1] // num_heads, value.shape[1] // num_heads
    return {
        "K": kernel_size,
        "KP": max(8, power_of_two(kernel_size)),  # 2 * KP is the inner size of a product: 16 at least
        "D": head_dim,
        "DP": max(16, power_of_two(head_dim)),
        "E": value_dim,
        "EP": max(16, power_of_two(value_dim)),
        "CONTENT": key is not None,
        "RELATIVE": rel_row is not None,
    }


def _strides(*maps: Tensor | None) -> list[int]:
    """Return four strides for each map, batch first; zeros where the map is None."""
    return [stride for m in maps for stride in ((0, 0, 0, 0) if m is None else m.stride())]


def _rel_strides(*rels: Tensor | None) -> list[int]:
    return [stride for r in rels for stride in ((0, 0, 0) if r is None else r.stride())]


def _narrow(rel_NKD: Tensor | None) -> Tensor | None:
    """Copy an embedding whose strides exceed the 32-bit offsets of the kernels; return any other unchanged."""
    if rel_NKD is None or sum(map(operator.mul, rel_NKD.shape, rel_NKD.stride())) < 2**31:
        return rel_NKD
    return rel_NKD.contiguous()


def _is_wide(map_BCHW: Tensor | None) -> bool:
    """Return whether offsets within one image need 64 bits."""
    if map_BCHW is None:
        return False
    # Masked addresses reach beyond the map by a tile and a halo: twice the size leaves room for them.
    within = zip(map_BCHW.shape[1:], map_BCHW.stride()[1:], strict=True)
    return sum((size + 128) * stride for size, stride in within) >= 2**31


def _dot_precision(query: Tensor) -> str:
    """Return the float32 precision of tl.dot, that of torch's own matrix products. Half precision is exact anyway."""
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"  # whichever of torch's two settings was used
    return "tf32" if query.dtype == torch.float32 and allowed else "ieee"
