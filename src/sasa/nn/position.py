"""Position encodings of attention layers: relative embeddings, the sinusoid of absolute positions, or none.

An encoding is one stateless object. It may add tables to a layer (parameters, which stay under the layer's own name in
a state_dict), it says which embeddings the operator gets, and it may add something to the layer's input. Added to
`POSITIONS`, an encoding works in `LocalAttention2d`, `AttentionStem`, `convert` and the configs of networks.

Shapes: N heads, K offsets a side, D channels of a head, C channels, H x W the map.
"""

from typing import Protocol

import torch
from torch import Tensor, fx, nn

from sasa.errors import ArgumentError

fx.wrap("add_sinusoid")


class Layer(Protocol):
    """What an encoding needs to know of a layer."""

    num_heads: int
    out_channels: int
    rel_row: nn.Parameter | None
    rel_col: nn.Parameter | None


class NoPosition:
    """No encoding: attention sees a window as a set of pixels. The base of the others."""

    tables: tuple[str, ...] = ()  # names of the parameters that it adds to a layer
    halves_heads = False  # whether the channels of a head must divide into a half for rows and one for columns
    makes_logits = False  # whether it gives logits of its own, so that a layer can do without q.k

    def add_tables(self, layer: Layer, offsets: int, **factory) -> None:
        """Give the layer its uninitialised tables.

        Args:
            layer: the attention layer.
            offsets: number of offsets in a row or column that its attention reaches.
            **factory: device and dtype.
        """
        layer.rel_row = layer.rel_col = None

    def reset_tables(self, layer: Layer) -> None:
        """Initialise the layer's tables."""

    def embeddings(self, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
        """Row and column embedding, (N, K, D / 2) each, for the operator; or None and None."""
        return None, None

    def encode(self, x: Tensor) -> Tensor:
        """The layer's input (B, C, H, W) with positions added to it."""
        return x


class RelativePosition(NoPosition):
    """Learned embeddings of the row and the column offset, for each head: r of Eq. 3."""

    tables = ("rel_row", "rel_col")
    halves_heads = True
    makes_logits = True

    def add_tables(self, layer: Layer, offsets: int, **factory) -> None:
        """Two embeddings of the layer's own, `rel_row` and `rel_col`."""
        size = (layer.num_heads, offsets, layer.out_channels // layer.num_heads // 2)
        layer.rel_row = nn.Parameter(torch.empty(size, **factory))
        layer.rel_col = nn.Parameter(torch.empty(size, **factory))

    def reset_tables(self, layer: Layer) -> None:
        """q.r starts with a variance of order one."""
        for table in self.embeddings(layer):
            assert table is not None
            nn.init.normal_(table, std=(layer.out_channels // layer.num_heads) ** -0.25)

    def embeddings(self, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
        """The tables themselves."""
        return layer.rel_row, layer.rel_col


class AbsolutePosition(NoPosition):
    """A fixed 2-D sinusoid added to the layer's input (Table 5)."""

    def encode(self, x: Tensor) -> Tensor:
        """x plus the sinusoid of its size."""
        return add_sinusoid(x)


POSITIONS: dict[str, NoPosition] = {
    "relative": RelativePosition(),
    "absolute": AbsolutePosition(),
    "none": NoPosition(),
}


def find_position(position: str, content: bool = True) -> NoPosition:
    """The encoding of that name.

    Raises:
        ArgumentError: there is none, or without content it leaves no logits.
    """
    if position not in POSITIONS:
        raise ArgumentError(f"position must be one of {', '.join(POSITIONS)}; got {position!r}")
    if not content and not POSITIONS[position].makes_logits:
        able = " or ".join(f'"{name}"' for name, encoding in POSITIONS.items() if encoding.makes_logits)
        raise ArgumentError(f"content=False needs position={able}: with position={position!r} there are no logits")
    return POSITIONS[position]


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
