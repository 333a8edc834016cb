"""Where a pixel is: relative embeddings that a layer learns, and the fixed sinusoid of absolute positions.

Shapes: N heads, K offsets a side, D channels of a head, C channels, H x W the map.
"""

import torch
from torch import Tensor, nn

from sasa.errors import ArgumentError

POSITIONS = ("relative", "absolute", "none")


def check_position(position: str, content: bool) -> None:
    """One of POSITIONS; without content logits only "relative" leaves a logit at all."""
    if position not in POSITIONS:
        raise ArgumentError(f"position must be one of {', '.join(POSITIONS)}; got {position!r}")
    if not content and position != "relative":
        raise ArgumentError(f'content=False needs position="relative": with position={position!r} there is no logit')


def relative_embedding(num_heads: int, offsets: int, head_dim: int, **factory) -> nn.Parameter:
    """An uninitialised (N, K, D / 2) embedding of the row or of the column offset, one for each head."""
    return nn.Parameter(torch.empty(num_heads, offsets, head_dim // 2, **factory))


def add_sinusoid(x: Tensor) -> Tensor:
    """Absolute positions added to a map (B, C, H, W), in its dtype."""
    return x + sinusoid(*x.shape[1:], device=x.device).to(x.dtype)


def sinusoid(channels: int, height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Absolute positions as a 2-D sinusoid, (C, H, W) in float32 (Table 5 of the paper, "absolute").

    The first half of the channels encodes the row, the second half the column (an odd channel goes to the row).
    In each half, channel 2 m is sin(p / 10000**(2 m / half)) and channel 2 m + 1 the cosine of the same angle.
    """
    row = _sinusoid_1d((channels + 1) // 2, height, device)
    column = _sinusoid_1d(channels // 2, width, device)
    return torch.cat([row[:, :, None].expand(-1, -1, width), column[:, None, :].expand(-1, height, -1)])


def _sinusoid_1d(channels: int, length: int, device: torch.device | None) -> Tensor:
    position = torch.arange(length, device=device, dtype=torch.float32)
    pair = torch.arange((channels + 1) // 2, device=device, dtype=torch.float32)
    angle = position / 10000 ** (2 * pair[:, None] / max(1, channels))
    return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)[:channels]
