"""Local attention from plain tensor operations, for run times that have no kernel of ours, such as ONNX Runtime.

The map is cut into square tiles of queries. The windows of a tile's queries lie in the tile and a margin of K // 2
pixels, so each tile needs two matrix products; keys outside a query's own window are hidden. There are no loops over
pixels, no views with overlapping memory and no copies into parts of a tensor, which other run times lack.

Two things decide the speed in ONNX Runtime. Tiles are collected by `index_select` from maps whose last axis is the
channels, as copies of whole pixels are fast and copies of single numbers are not. And heads are computed one after the
other where the map is large, so that the logits of one are still in the processor's cache when the next operator
reads them.

Shapes: B batch, N heads, D query and E value channels of a head, H x W the map, L = H * W its pixels, K the kernel
size, I x J = G tiles of P = T * T queries, S = T + K - 1 the side of a tile's keys, M = S * S keys of a tile.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops.arguments import LocalInputs, LocalOptions
from sasa.ops.precision import compute_dtype, without_autocast

HIDDEN = -1e30  # logit of a hidden key; finite, because it is also multiplied by 0
SIDE = 4  # T: fastest among 2 to 8, see docs/deploy.md
CACHED_LOGITS = 2**19  # computed at once: 2 MB


class Tiles(NamedTuple):
    """The division of a map into tiles of T x T queries.

    Args:
        height: H of the map.
        width: W.
        kernel_size: K.
        device: of the tables.
    """

    height: int
    width: int
    kernel_size: int
    device: torch.device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows I and columns J of tiles."""
        return (self.height + SIDE - 1) // SIDE, (self.width + SIDE - 1) // SIDE

    @property
    def keys(self) -> int:
        """S, the side of a tile's keys."""
        return SIDE + self.kernel_size - 1

    def queries_of_tiles(self) -> Tensor:
        """(G, P): the pixel of each query; the last row or column in place of pixels beyond the map."""
        row, column = self._places(SIDE, 0)
        row, column = row.clamp_max(self.height - 1), column.clamp_max(self.width - 1)
        return (row[:, None, :, None] * self.width + column[:, None]).flatten(0, 1).flatten(1)

    def keys_of_tiles(self) -> Tensor:
        """(G, M): the pixel of each key; L for keys beyond the map."""
        row, column = self._places(self.keys, self.kernel_size // 2)
        inside = _within(row, self.height)[:, None, :, None] & _within(column, self.width)[:, None]
        pixel = torch.where(inside, row[:, None, :, None] * self.width + column[:, None], self.height * self.width)
        return pixel.flatten(0, 1).flatten(1)

    def pixels_of_map(self) -> Tensor:
        """(L,): the place of each pixel of the map among the G * P queries of all tiles."""
        row = torch.arange(self.height, device=self.device)[:, None]
        column = torch.arange(self.width, device=self.device)
        tile = row // SIDE * self.grid[1] + column // SIDE
        return (tile * SIDE**2 + row % SIDE * SIDE + column % SIDE).flatten()

    def beyond_map(self, dtype: torch.dtype) -> Tensor:
        """(G, 1, 2 * S): HIDDEN for the rows, then the columns, of a tile's keys that lie beyond the map, else 0."""
        (rows, columns), places = self.grid, self._places(self.keys, self.kernel_size // 2)
        outside = [~_within(place, size) for place, size in zip(places, (self.height, self.width), strict=True)]
        row, column = (torch.where(hidden, HIDDEN, 0.0).to(dtype) for hidden in outside)
        both = [row[:, None].expand(-1, columns, -1), column.expand(rows, -1, -1)]
        return torch.cat(both, -1).flatten(0, 1)[:, None]

    def _places(self, length: int, margin: int) -> tuple[Tensor, Tensor]:
        """Rows (I, length) and columns (J, length) of the map, from `margin` before each tile on."""
        within = torch.arange(length, device=self.device) - margin
        row, column = (torch.arange(count, device=self.device)[:, None] * SIDE + within for count in self.grid)
        return row, column


class Tables(NamedTuple):
    """Constants of a map's tiles, the same for all heads."""

    queries: Tensor  # (G, P), see `Tiles.queries_of_tiles`
    keys: Tensor  # (G, M)
    pixels: Tensor  # (L,)
    hidden: Tensor  # (P, 2 * S) or (G, P, 2 * S), see `_hidden_terms` and `Tiles.beyond_map`
    spread: Tensor  # (2 * S, M), see `_spread`


class Heads(NamedTuple):
    """Arguments of Eq. 3 for some of the heads."""

    query: Tensor  # (B, N, L, D)
    key: Tensor | None  # (B, N, L + 1, D), 0 in the last place
    value: Tensor  # (B, N, L + 1, E), the same
    relative: Tensor | None  # (N, P, D, 2 * S), see `_relative_terms`


def local_attention(inputs: LocalInputs, options: LocalOptions) -> tuple[Tensor, Tensor]:
    """Eq. 3: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W); see `sasa.ops.local_attention`."""
    kernel_size, num_heads, padding, scale = options
    dtype, device = compute_dtype(inputs.query), inputs.query.device
    query, key, value, rel_row, rel_col = (None if t is None else t.to(dtype) for t in inputs)
    assert query is not None
    assert value is not None
    height, width = query.shape[2:]
    tiles = Tiles(height, width, kernel_size, device)
    with without_autocast(device):
        relative = None if rel_row is None or rel_col is None else _relative_terms(rel_row, rel_col)
        query, value = _pixels(query, num_heads), F.pad(_pixels(value, num_heads), (0, 0, 0, 1))
        query = query * scale if scale != 1 else query
        key = None if key is None else F.pad(_pixels(key, num_heads), (0, 0, 0, 1))
        hidden = _hidden_terms(kernel_size, query)
        hidden = hidden + tiles.beyond_map(dtype) if padding == "mask" else hidden
        index = tiles.queries_of_tiles(), tiles.keys_of_tiles(), tiles.pixels_of_map()
        tables = Tables(*index, hidden, _spread(tiles.keys, query))
        parts = [_attend(part, tables) for part in _split(Heads(query, key, value, relative), tiles)]
        output_BNLE, logsumexp_BNL = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    output = output_BNLE.mT.reshape(query.shape[0], -1, height, width)
    return output.to(inputs.query.dtype), logsumexp_BNL.unflatten(2, (height, width))


def _attend(heads: Heads, tables: Tables) -> tuple[Tensor, Tensor]:
    """Output (B, N, L, E) and log-sum-exp (B, N, L) of some heads."""
    query_BNGPD, terms = _collect(heads.query, tables.queries), tables.hidden
    if heads.relative is not None:
        terms = (query_BNGPD.transpose(2, 3) @ heads.relative).transpose(2, 3) + terms
    logits = terms @ tables.spread
    if heads.key is not None:
        logits = query_BNGPD @ _collect(heads.key, tables.keys).mT + logits
    output_BNGPE = logits.softmax(-1) @ _collect(heads.value, tables.keys)
    logsumexp_BNGP = logits.logsumexp(-1).expand(output_BNGPE.shape[:4])
    output, logsumexp = output_BNGPE.flatten(2, 3), logsumexp_BNGP.flatten(2)
    return output.index_select(2, tables.pixels), logsumexp.index_select(2, tables.pixels)


def _pixels(map_BCHW: Tensor, num_heads: int) -> Tensor:
    """(B, N * D, H, W) -> (B, N, L, D)."""
    return map_BCHW.reshape(map_BCHW.shape[0], num_heads, -1, map_BCHW.shape[2] * map_BCHW.shape[3]).mT


def _collect(x_BNLD: Tensor, index_GP: Tensor) -> Tensor:
    """(B, N, L, D), (G, P) -> (B, N, G, P, D)."""
    return x_BNLD.index_select(2, index_GP.flatten()).unflatten(2, index_GP.shape)


def _split(heads: Heads, tiles: Tiles) -> list[Heads]:
    """Split into groups of heads of about CACHED_LOGITS logits of an image; single heads for maps of unknown size."""
    count, (rows, columns) = 1, tiles.grid
    if isinstance(rows, int) and isinstance(columns, int):
        count = max(1, CACHED_LOGITS // (rows * columns * SIDE**2 * tiles.keys**2))
    pieces = [
        [None] * heads.query.shape[1] if x is None else x.split(count, axis)
        for x, axis in zip(heads, (1, 1, 1, 0), strict=True)
    ]
    return [Heads(*part) for part in zip(*pieces, strict=False)]


def _relative_terms(rel_row_NKD: Tensor, rel_col_NKD: Tensor) -> Tensor:
    """(N, P, D, 2 * S): for each query of a tile, the factors that give q.r of each row, and each column, of keys.

    0 where the row or the column is outside the query's window.
    """
    half = rel_row_NKD.shape[2]
    index_TS, visible_TS = _window(rel_row_NKD.shape[1], rel_row_NKD.device)
    row_NTDS, column_NTDS = ((rel[:, index_TS] * visible_TS[..., None]).mT for rel in (rel_row_NKD, rel_col_NKD))
    row = F.pad(row_NTDS, (0, 0, 0, half))[:, :, None].expand(-1, -1, SIDE, -1, -1)
    column = F.pad(column_NTDS, (0, 0, half, 0))[:, None].expand(-1, SIDE, -1, -1, -1)
    return torch.cat([row, column], -1).flatten(1, 2)


def _hidden_terms(kernel_size: int, like: Tensor) -> Tensor:
    """(P, 2 * S): HIDDEN where a row, or a column, of a tile's keys is outside the query's window, else 0."""
    hidden_TS = torch.where(_window(kernel_size, like.device)[1], 0.0, HIDDEN).to(like.dtype)
    row, column = hidden_TS[:, None].expand(-1, SIDE, -1), hidden_TS[None].expand(SIDE, -1, -1)
    return torch.cat([row, column], -1).flatten(0, 1)


def _window(kernel_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(T, S) along one axis: the offset of a tile's key from a query, from 0 on, and whether the query sees the key."""
    offset = torch.arange(SIDE + kernel_size - 1, device=device) - torch.arange(SIDE, device=device)[:, None]
    return offset.clamp(0, kernel_size - 1), _within(offset, kernel_size)


def _spread(side: int, like: Tensor) -> Tensor:
    """(2 * S, M): ones and zeros, which add the term of a key's row and the term of its column."""
    ones = torch.eye(side, dtype=like.dtype, device=like.device)
    return torch.cat([ones.repeat_interleave(side, 1), ones.repeat(1, side)])


def _within(place: Tensor, size: int) -> Tensor:
    return (place >= 0) & (place < size)
