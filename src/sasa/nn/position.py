"""Position encodings of attention layers: relative embeddings, the sinusoid of absolute positions, or none.

An encoding is a stateless object. It may add embedding tables to a layer (as parameters of the layer), returns the
embeddings that the operator gets, and may add positions to the layer's input. Once in `POSITIONS`, it can be used in
`LocalAttention2d`, `AttentionStem`, `convert` and the configs of networks.

Shapes: N heads, K offsets a side, D channels of a head, C channels, H x W the map.
"""

from typing import Protocol

import torch
from torch import Tensor, fx, nn

from sasa.errors import ArgumentError

fx.wrap("add_sinusoid")


class Layer(Protocol):
    """The attributes of an attention layer that an encoding reads or sets."""

    num_heads: int
    out_channels: int
    rel_row: nn.Parameter | None
    rel_col: nn.Parameter | None


class NoPosition:
    """No encoding: attention sees a window as an unordered set of pixels. Base class of the other encodings."""

    tables: tuple[str, ...] = ()  # names of the parameters that it adds to a layer
    halves_heads = False  # whether it uses half of a head's channels for rows and half for columns
    makes_logits = False  # whether it adds a term to the logits, so that a layer also works with content=False

    def add_tables(self, layer: Layer, offsets: int, **factory) -> None:
        """Add uninitialised embedding tables to the layer.

        Args:
            layer: the attention layer.
            offsets: K, the number of row (or column) offsets between a query and its keys.
            **factory: device and dtype.
        """
        layer.rel_row = layer.rel_col = None

    def reset_tables(self, layer: Layer) -> None:
        """Initialise the layer's tables."""

    def embeddings(self, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
        """Return row and column embedding for the operator, (N, K, D / 2) each, or (None, None)."""
        return None, None

    def encode(self, x: Tensor) -> Tensor:
        """Add positions to the layer's input, (B, C, H, W) -> (B, C, H, W)."""
        return x


class RelativePosition(NoPosition):
    """Learned embeddings of the row and the column offset, for each head: r of Eq. 3."""

    tables = ("rel_row", "rel_col")
    halves_heads = True
    makes_logits = True

    def add_tables(self, layer: Layer, offsets: int, **factory) -> None:
        """Add the parameters `rel_row` and `rel_col` to the layer."""
        size = (layer.num_heads, offsets, layer.out_channels // layer.num_heads // 2)
        layer.rel_row = nn.Parameter(torch.empty(size, **factory))
        layer.rel_col = nn.Parameter(torch.empty(size, **factory))

    def reset_tables(self, layer: Layer) -> None:
        """Initialise the tables such that q.r has a variance of order one."""
        for table in self.embeddings(layer):
            assert table is not None
            nn.init.normal_(table, std=(layer.out_channels // layer.num_heads) ** -0.25)

    def embeddings(self, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
        """Return the tables.

        Raises:
            ArgumentError: the layer was constructed with another encoding, and has none.
        """
        if layer.rel_row is None or layer.rel_col is None:
            raise ArgumentError('position is "relative", but the layer was constructed without relative embeddings')
        return layer.rel_row, layer.rel_col


class AbsolutePosition(NoPosition):
    """A fixed 2-D sinusoid added to the layer's input (Table 5)."""

    def encode(self, x: Tensor) -> Tensor:
        """Add the sinusoid for the size of x."""
        return add_sinusoid(x)


POSITIONS: dict[str, NoPosition] = {
    "relative": RelativePosition(),
    "absolute": AbsolutePosition(),
    "none": NoPosition(),
}


def find_position(position: str, content: bool = True) -> NoPosition:
    """Return the encoding with this name.

    Raises:
        ArgumentError: an unknown name, or content=False with an encoding that adds no term to the logits.
    """
    if not isinstance(position, str) or position not in POSITIONS:
        raise ArgumentError(f"position must be one of {', '.join(POSITIONS)}; got {position!r}")
    if not content and not POSITIONS[position].makes_logits:
        suitable = " or ".join(f'"{name}"' for name, encoding in POSITIONS.items() if encoding.makes_logits)
        raise ArgumentError(f"content=False needs position={suitable}: with position={position!r} there are no logits")
    return POSITIONS[position]


def add_sinusoid(x: Tensor) -> Tensor:
    """Add absolute positions to a map (B, C, H, W), in its dtype."""
    return x + sinusoid(*x.shape[1:], device=x.device).to(x.dtype)


def sinusoid(channels: int, height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Compute absolute positions as a 2-D sinusoid, (C, H, W) in float32 (Table 5 of the paper, "absolute").

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
