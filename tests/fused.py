"""The fused operators composed from the reference, differentiable, for comparison."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import block_attention, local_attention


def qkv_attention(qkv: Tensor, rel_row: Tensor | None, rel_col: Tensor | None, *, content: bool, **options) -> Tensor:
    """`local_attention` of the thirds of one map, or of its halves without content."""
    query, *key, value = qkv.chunk(3 if content else 2, dim=1)
    maps = (query, *(key or [None]), value)
    return local_attention(*maps, rel_row, rel_col, content=content, backend="reference", **options)


def qkv_attention_inference(
    qkv: Tensor,
    rel_row: Tensor | None,
    rel_col: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    *,
    relu: bool,
    pool: int,
    **options,
) -> Tensor:
    """Attention, the mean of pool x pool pixels (fewer at an odd border), a batch norm's y * gain + shift, ReLU."""
    y = qkv_attention(qkv, rel_row, rel_col, **options)
    y = F.avg_pool2d(y, pool, ceil_mode=True, count_include_pad=False)
    y = y if gain is None else y * gain[:, None, None]
    y = y if shift is None else y + shift[:, None, None]
    return y.relu() if relu else y


def blocks_of(y: Tensor, block_size: int, beyond: float) -> Tensor:
    """(B, C, H, W) -> (B, C, I, J, P): the pixels of each block, row by row; `beyond` where a block leaves the map."""
    height, width = y.shape[2:]
    padded = F.pad(y, (0, -width % block_size, 0, -height % block_size), value=beyond)
    return padded.unflatten(3, (-1, block_size)).unflatten(2, (-1, block_size)).transpose(3, 4).flatten(4)


def block_attention_pooled(
    *tensors: Tensor | None, block_size: int, position: Tensor | None = None, **options
) -> tuple[Tensor, Tensor, Tensor]:
    """`block_attention` of seven tensors, then each block's extreme by the sign of its channel, its position, and sums.

    `position` gives the positions of the extremes: in half precision two values may be equal, and either may be taken.
    """
    *inputs, value, sign = tensors
    content = inputs[2] is not None
    y = block_attention(*inputs, value=value, block_size=block_size, content=content, backend="reference", **options)
    toward = torch.where(sign < 0, -1.0, 1.0).to(y.dtype)[:, None, None]
    blocks = blocks_of(y * toward, block_size, float("-inf"))
    if position is None:
        position = blocks.argmax(-1)
    extreme = blocks.gather(-1, position.long()[..., None])[..., 0] * toward
    return extreme, position, torch.stack([y.sum((0, 2, 3)), y.square().sum((0, 2, 3))])
