"""Eq. 3 by torch's FlexAttention, compiled: what a user without this library would take for relative positions."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.speed.workloads import HEADS, WINDOW

LEAST_CHANNELS = 16  # of a head that FlexAttention's CUDA kernels take


def flex_attention(
    side: int, device: str = "cpu", *, least: int | None = None, compiled: bool = True
) -> Callable[..., Tensor]:
    """A function of query, key, value (B, C, side, side), rel_row, rel_col (N, K, C / N / 2): padding="mask", scale 1.

    The window is a block mask; q.r is computed before, K + K numbers a query and head, and added as a bias.

    Args:
        side: of the square maps.
        device: they are on.
        least: channels of a head; with fewer, zeros are added to q, k and v (the same logits; the output's are cut
            off again). By default `LEAST_CHANNELS` on CUDA devices, 1 elsewhere.
        compiled: by torch.compile, one variant for each shape.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    half, pixels = WINDOW // 2, side * side
    if least is None:
        least = LEAST_CHANNELS if torch.device(device).type == "cuda" else 1

    def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((q // side - k // side).abs() <= half) & ((q % side - k % side).abs() <= half)

    mask: Any = create_block_mask(near, None, None, pixels, pixels, device=device)  # pyright: ignore

    def attention(query: Tensor, key: Tensor, value: Tensor, rel_row: Tensor, rel_col: Tensor) -> Tensor:
        q, k, v = (m.unflatten(1, (HEADS, -1)).flatten(3).transpose(2, 3).contiguous() for m in (query, key, value))
        channels = q.shape[-1]
        q_row, q_col = q.chunk(2, dim=-1)
        rows, cols = q_row @ rel_row.mT, q_col @ rel_col.mT
        if channels < least:
            q, k, v = (F.pad(m, (0, least - channels)) for m in (q, k, v))

        def relative(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            down = (j // side - i // side + half).clamp(0, WINDOW - 1)
            right = (j % side - i % side + half).clamp(0, WINDOW - 1)
            return score + rows[b, h, i, down] + cols[b, h, i, right]

        output: Any = flex_attention(q, k, v, score_mod=relative, block_mask=mask, scale=1.0)
        pixels_first = output[..., :channels].transpose(1, 2).flatten(2)
        return pixels_first.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # channels_last, as it came

    return torch.compile(attention, dynamic=False) if compiled else attention
