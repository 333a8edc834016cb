"""Local attention from plain tensor operations, for run times that have no kernel of ours, such as ONNX Runtime.

The map is cut into square tiles of queries. The windows of a tile's queries lie in the tile and a margin of K // 2
pixels, so each tile needs two matrix products; keys outside a query's own window are masked. `sasa.ops.eager` does the
same strip by strip to save memory. Here there are no loops, no views with overlapping memory and no copies into parts
of a tensor, which other run times lack, and the axes are in an order in which a transposition rarely moves the last
one: that, not the arithmetic, decides the speed in ONNX Runtime.

Shapes: B batch, N heads, D query and E value channels of a head, H x W the map, K the kernel size, I x J tiles of
T x T queries, S = T + K - 1 the side of a tile's keys, P = T * T queries and M = S * S keys of a tile.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops.arguments import LocalInputs, LocalOptions
from sasa.ops.precision import compute_dtype, without_autocast

HIDDEN = -1e30  # logit of a hidden key; finite, because it is also multiplied by 0
USUAL_TILE = 7  # for maps of any size: it divides the maps of 224 x 224 images
TILES = range(4, 9)
COPY_COST = 60  # time to copy a key to a tile, in products with a query; from the measured times of tiles of 4, 7 and 8


class Tiles(NamedTuple):
    """The division of a map into tiles.

    Args:
        height: H of the map.
        width: W.
        kernel_size: K.
        side: T.
    """

    height: int
    width: int
    kernel_size: int
    side: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows I and columns J of tiles."""
        return (self.height + self.side - 1) // self.side, (self.width + self.side - 1) // self.side

    @property
    def margin(self) -> int:
        """Pixels by which a tile's keys extend beyond its queries on each side."""
        return self.kernel_size // 2

    @property
    def keys(self) -> int:
        """S, the side of a tile's keys."""
        return self.side + self.kernel_size - 1

    def pad(self, map_BCHW: Tensor) -> Tensor:
        """Add zeros at the right and the bottom, up to whole tiles: (B, C, I * T, J * T)."""
        right, bottom = (
            count * self.side - size for count, size in zip(reversed(self.grid), (self.width, self.height), strict=True)
        )
        if isinstance(right, int) and isinstance(bottom, int) and right == bottom == 0:
            return map_BCHW
        return F.pad(map_BCHW, (0, right, 0, bottom))

    def split(self, padded: Tensor, num_heads: int) -> Tensor:
        """(B, N * D, I * T, J * T) -> (B, N, I, J, D, T, T)."""
        rows, columns = self.grid
        tiles = padded.reshape(padded.shape[0], num_heads, -1, rows, self.side, columns, self.side)
        return tiles.permute(0, 1, 3, 5, 2, 4, 6)

    def join(self, tiles_BNIJDTT: Tensor) -> Tensor:
        """The inverse of `split`, without the padding: (B, N * D, H, W)."""
        rows, columns = self.grid
        padded = tiles_BNIJDTT.permute(0, 1, 4, 2, 5, 3, 6)
        padded = padded.reshape(padded.shape[0], -1, rows * self.side, columns * self.side)
        return padded[:, :, : self.height, : self.width]

    def split_keys(self, map_BCHW: Tensor, num_heads: int) -> Tensor:
        """(B, N * D, H, W) -> (B, N, I, J, D, M): the keys of each tile, zeros beyond the map."""
        (rows, columns), side, margin = self.grid, self.side, self.margin
        whole = math.ceil(self.keys / side) - 1  # tiles after a tile that its keys reach into
        bottom, right = (rows + whole) * side - self.height, (columns + whole) * side - self.width
        padded = F.pad(map_BCHW, (margin, right - margin, margin, bottom - margin))
        batch, tall = padded.shape[0], self._overlapping(padded.unflatten(2, (rows + whole, side)), 2, 3, rows)
        tiles = tall.reshape(batch, num_heads, -1, rows, self.keys, columns + whole, side)
        tiles = tiles.permute(0, 1, 3, 5, 2, 4, 6)  # before the columns overlap too, which makes them larger
        return self._overlapping(tiles, 3, 6, columns).flatten(5)

    def _overlapping(self, x: Tensor, tile: int, place: int, count: int) -> Tensor:
        """Lengthen the first `count` tiles from T to S along the axis `place`, with parts of the tiles after them.

        Args:
            x: has more tiles along the axis `tile`.
            tile: the axis of tiles.
            place: the axis within a tile.
            count: number of tiles that result.
        """
        lengths = [min(self.side, self.keys - start) for start in range(0, self.keys, self.side)]
        parts = [x.narrow(tile, number, count).narrow(place, 0, length) for number, length in enumerate(lengths)]
        return torch.cat(parts, place)


def tile_side(height: int, width: int, kernel_size: int) -> int:
    """Choose T, at least K // 2, for the least work; USUAL_TILE if a size is not a number yet, as in an export."""
    smallest = kernel_size // 2
    if not (isinstance(height, int) and isinstance(width, int)):
        return max(USUAL_TILE, smallest)

    def work(side: int) -> int:
        rows, columns = Tiles(height, width, kernel_size, side).grid
        return rows * columns * (side + kernel_size - 1) ** 2 * (side**2 + COPY_COST)

    return max(smallest, min(TILES, key=work))


def local_attention(inputs: LocalInputs, options: LocalOptions) -> tuple[Tensor, Tensor]:
    """Eq. 3: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W); see `sasa.ops.local_attention`."""
    kernel_size, num_heads, _, scale = options
    dtype, device = compute_dtype(inputs.query), inputs.query.device
    query, key, value, rel_row, rel_col = (None if t is None else t.to(dtype) for t in inputs)
    assert query is not None
    assert value is not None
    height, width = query.shape[2:]
    tiles = Tiles(height, width, kernel_size, tile_side(height, width, kernel_size))
    with without_autocast(device):
        query = tiles.pad(query) * scale if scale != 1 else tiles.pad(query)
        logits = _window_bias(tiles, query, rel_row, rel_col, options)
        if key is not None:
            key_BNIJDM = tiles.split_keys(key, num_heads)
            logits = tiles.split(query, num_heads).flatten(5, 6).mT @ key_BNIJDM + logits
        weights_BNIJPM = logits.softmax(-1)
        value_BNIJEM = tiles.split_keys(value, num_heads)
        output_BNIJEP = value_BNIJEM @ weights_BNIJPM.mT
        output = tiles.join(output_BNIJEP.unflatten(5, (tiles.side, tiles.side)))
        logsumexp_BNIJP = logits.logsumexp(-1).expand(*output_BNIJEP.shape[:4], -1)
        logsumexp = tiles.join(logsumexp_BNIJP.unflatten(4, (1, tiles.side, tiles.side)))
    return output.to(inputs.query.dtype), logsumexp


def _window_bias(
    tiles: Tiles, query: Tensor, rel_row: Tensor | None, rel_col: Tensor | None, options: LocalOptions
) -> Tensor:
    """q.r of each query with each key of its tile, HIDDEN for keys that it does not see: (B, N, I, J, P, M).

    A term for the key's row and a term for its column, added by a product with ones and zeros.
    """
    kernel_size, (rows, columns), side = options.kernel_size, tiles.grid, tiles.side
    if rel_row is None or rel_col is None:
        by_offset = query.new_zeros(1, 1, 1, 1, 2 * kernel_size * side**2)
    else:
        by_offset = tiles.split(_relative_map(query, rel_row, rel_col), options.num_heads).flatten(4)
    with_hidden = F.pad(by_offset, (0, 1), value=HIDDEN)
    index = _offset_index(tiles, query.device)
    terms = with_hidden.index_select(4, index.flatten()).unflatten(4, index.shape)  # (B, N, I, J, 2 * S, P)
    if options.padding == "mask":
        row = _outside(tiles, rows, tiles.height, query)[:, None].expand(-1, columns, -1)
        column = _outside(tiles, columns, tiles.width, query)[None].expand(rows, -1, -1)
        terms = terms + torch.cat([row, column], -1)[..., None]
    ones = torch.eye(tiles.keys, dtype=query.dtype, device=query.device)
    spread = torch.cat([ones.repeat_interleave(tiles.keys, 1), ones.repeat(1, tiles.keys)])
    return terms.mT @ spread[None, None, None, None]


def _relative_map(query: Tensor, rel_row_NKD: Tensor, rel_col_NKD: Tensor) -> Tensor:
    """q.r by row offset, then by column offset: (B, N * 2 * K, H, W)."""
    batch, _, height, width = query.shape
    num_heads, kernel_size, half = rel_row_NKD.shape
    halves = query.reshape(batch, num_heads, 2, half, height * width)
    products = torch.stack([rel_row_NKD, rel_col_NKD], 1) @ halves
    return products.reshape(batch, num_heads * 2 * kernel_size, height, width)


def _offset_index(tiles: Tiles, device: torch.device) -> Tensor:
    """(2 * S, P): where the term of a key's row, or column, for a query stands among 2 * K offsets x P queries.

    Key s of a tile has offset s - t from query t; where that is outside the window, the index after the last.
    """
    side, kernel_size = tiles.side, tiles.kernel_size
    query = torch.arange(side, device=device)
    offset_ST = torch.arange(tiles.keys, device=device)[:, None] - query
    place_ST = torch.where((offset_ST >= 0) & (offset_ST < kernel_size), offset_ST, 2 * kernel_size) * side**2
    place_TT = query[:, None] * side + query
    row_STT = place_ST[:, :, None] + place_TT
    column_STT = place_ST[:, None, :] + place_TT + kernel_size * side**2
    return torch.cat([row_STT, column_STT]).flatten(1).clamp_max(2 * kernel_size * side**2)


def _outside(tiles: Tiles, count: int, size: int, like: Tensor) -> Tensor:
    """HIDDEN for the keys beyond the map, else 0, along one axis: (count, S)."""
    first = torch.arange(count, device=like.device)[:, None] * tiles.side - tiles.margin
    place = first + torch.arange(tiles.keys, device=like.device)
    return torch.where((place >= 0) & (place < size), 0.0, HIDDEN).to(like.dtype)
