"""Eq. 3 by torch's FlexAttention, compiled."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cpu.workloads import HEADS, WINDOW


def flex_attention(side: int) -> Callable[..., Tensor]:
    """Make a function of query, key, value (B, C, side, side), rel_row, rel_col (N, K, C / N / 2); padding="mask".

    The window is a block mask; q.r is computed first, K + K numbers a query and head, and added as a score bias.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    half, pixels = WINDOW // 2, side * side

    def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((q // side - k // side).abs() <= half) & ((q % side - k % side).abs() <= half)

    mask = create_block_mask(near, None, None, pixels, pixels, device="cpu")

    def attention(query: Tensor, key: Tensor, value: Tensor, rel_row: Tensor, rel_col: Tensor) -> Tensor:
        q, k, v = (m.unflatten(1, (HEADS, -1)).flatten(3).transpose(2, 3).contiguous() for m in (query, key, value))
        q_row, q_col = q.chunk(2, dim=-1)
        rows, cols = q_row @ rel_row.mT, q_col @ rel_col.mT

        def relative(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            down = (j // side - i // side + half).clamp(0, WINDOW - 1)
            right = (j % side - i % side + half).clamp(0, WINDOW - 1)
            return score + rows[b, h, i, down] + cols[b, h, i, right]

        output = flex_attention(q, k, v, score_mod=relative, block_mask=mask, scale=1.0)
        pixels_first = output.transpose(1, 2).flatten(2)
        return pixels_first.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # channels_last

    return torch.compile(attention, dynamic=False)
