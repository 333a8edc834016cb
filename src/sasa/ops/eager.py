"""Local attention in plain torch, forward and backward, without the window tensor (B, C, K * K, H, W).

The map is cut into small tiles of queries. The windows of a tile's queries lie in the tile and a halo of K // 2 pixels,
so a tile needs one matrix product instead of one per window; keys outside a query's own window are masked. Copies of
keys and values take (S / T)**2 times the map instead of K**2 times, for one strip of tiles at a time. The backward pass
recomputes the weights from the log-sum-exp.

Shapes: B images, N heads, D query and key channels of a head, E value channels of a head, I x J tiles of
T x U queries, S x Z keys of a tile (S = T + K - 1), P = T * U queries and M = S * Z keys of a tile.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import eager_windows
from sasa.ops.arguments import LocalBackward, LocalForward, LocalOptions
from sasa.ops.precision import compute_dtype, empty_map, without_autocast

TILE = 4  # queries a side: for K = 7, 4 x 4 queries share 10 x 10 keys, twice the 49 that each of them needs
# Logits of a strip: on a CPU they should stay in cache, on a GPU be enough to fill it.
STRIP_LOGITS = {"cpu": 2**20, "cuda": 2**25}


@dataclass(frozen=True)
class Strip:
    """Some images and rows of tiles, small enough for their logits to stay in cache."""

    images: slice
    first_row: int  # of tiles
    rows: int  # of tiles


@dataclass(frozen=True)
class Tiling:
    """The division of a map of height x width queries into tiles."""

    height: int
    width: int
    kernel_size: int
    num_heads: int
    padding: str

    @classmethod
    def of(cls, query: Tensor, options: LocalOptions) -> "Tiling":
        """The tiling for a call."""
        return cls(query.shape[2], query.shape[3], options.kernel_size, options.num_heads, options.padding)

    @property
    def tile(self) -> tuple[int, int]:
        """Side lengths of a tile of queries, T and U."""
        return min(TILE, self.height), min(TILE, self.width)

    @property
    def halo(self) -> int:
        """Number of pixels that a window extends beyond its query."""
        return self.kernel_size // 2

    @property
    def keys(self) -> tuple[int, int]:
        """Side lengths of the keys of one tile."""
        return self.tile[0] + self.kernel_size - 1, self.tile[1] + self.kernel_size - 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return math.ceil(self.height / self.tile[0]), math.ceil(self.width / self.tile[1])

    def strips(self, batch: int, device: torch.device) -> Iterator[Strip]:
        """Strips that cover the batch; each holds at most about STRIP_LOGITS logits."""
        budget = STRIP_LOGITS.get(device.type, STRIP_LOGITS["cpu"])
        row_logits = self.num_heads * self.grid[1] * math.prod(self.tile) * math.prod(self.keys)
        rows = min(self.grid[0], max(1, budget // row_logits))
        images = max(1, budget // (row_logits * self.grid[0])) if rows == self.grid[0] else 1
        for image in range(0, batch, images):
            for first_row in range(0, self.grid[0], rows):
                yield Strip(slice(image, image + images), first_row, min(rows, self.grid[0] - first_row))

    def query_tiles(self, map_BCHW: Tensor, strip: Strip) -> Tensor:
        """(B, N * D, H, W) -> (B, N, I, J, P, D), zeros beyond the map; float32 or better."""
        tile_height, tile_width = self.tile
        top = strip.first_row * tile_height
        rows = map_BCHW[strip.images, :, top : top + strip.rows * tile_height].to(compute_dtype(map_BCHW))
        pad_width = self.grid[1] * tile_width - self.width
        padded = F.pad(rows, (0, pad_width, 0, strip.rows * tile_height - rows.shape[2]))
        tiles = padded.unflatten(1, (self.num_heads, -1)).unflatten(4, (-1, tile_width))
        return tiles.unflatten(3, (-1, tile_height)).permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5)

    def map_rows(self, tiles_BNIJPD: Tensor, strip: Strip) -> tuple[slice, Tensor]:
        """The inverse of `query_tiles`: the strip's rows of the map, and their content (B, N * D, rows, W)."""
        tiles = tiles_BNIJPD.unflatten(4, self.tile).permute(0, 1, 6, 2, 4, 3, 5)
        rows = tiles.flatten(5, 6).flatten(3, 4).flatten(1, 2)
        top = strip.first_row * self.tile[0]
        bottom = min(self.height, top + strip.rows * self.tile[0])
        return slice(top, bottom), rows[:, :, : bottom - top, : self.width]

    def key_tiles(self, map_BCHW: Tensor, strip: Strip) -> Tensor:
        """(B, N * D, H, W) -> (B, N, I, J, D, M): the keys of each tile, zeros beyond the map."""
        (tile_height, tile_width), (keys_height, keys_width) = self.tile, self.keys
        top = strip.first_row * tile_height - self.halo
        bottom = top + strip.rows * tile_height + self.kernel_size - 1
        rows = map_BCHW[strip.images, :, max(0, top) : bottom].to(compute_dtype(map_BCHW))
        right = self.grid[1] * tile_width + self.halo - self.width
        above = max(0, -top)
        padded = F.pad(rows, (self.halo, right, above, bottom - top - above - rows.shape[2]))
        windows = padded.unfold(2, keys_height, tile_height).unfold(3, keys_width, tile_width)
        return windows.unflatten(1, (self.num_heads, -1)).permute(0, 1, 3, 4, 2, 5, 6).flatten(5, 6)

    def padded_like(self, map_BCHW: Tensor) -> Tensor:
        """Zeros in compute dtype for gradients of the map and its margin, which the halos of tiles reach."""
        batch, channels = map_BCHW.shape[:2]
        (rows, columns), (tile_height, tile_width) = self.grid, self.tile
        size = (rows * tile_height + self.kernel_size - 1, columns * tile_width + self.kernel_size - 1)
        return map_BCHW.new_zeros((batch, channels, *size), dtype=compute_dtype(map_BCHW))

    def add_key_tiles(self, padded: Tensor, tiles_BNIJDM: Tensor, strip: Strip) -> None:
        """The adjoint of `key_tiles`: add each tile's keys to the positions of `padded` that they were read from."""
        top = strip.first_row * self.tile[0]
        height = strip.rows * self.tile[0] + self.kernel_size - 1
        columns = tiles_BNIJDM.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)
        rows = F.fold(columns, (height, padded.shape[3]), self.keys, stride=self.tile)
        padded[strip.images, :, top : top + height] += rows

    def crop(self, padded: Tensor) -> Tensor:
        """The part of `padded_like` that belongs to the map."""
        return padded[:, :, self.halo : self.halo + self.height, self.halo : self.halo + self.width]

    def window_masks(self, strip: Strip, like: Tensor) -> tuple[Tensor, Tensor]:
        """0 where a key row (column) is in the window of a query row (column), else -inf: (I, T, S), (J, U, Z).

        Queries beyond the map may have no key: their softmax is discarded, and their gradient is zero.
        """
        masks = []
        for axis, (first, count, size) in enumerate(
            ((strip.first_row, strip.rows, self.height), (0, self.grid[1], self.width))
        ):
            tile, keys = self.tile[axis], self.keys[axis]
            start = (first + torch.arange(count, device=like.device))[:, None, None] * tile
            query = start + torch.arange(tile, device=like.device)[:, None]
            key = start + torch.arange(keys, device=like.device) - self.halo
            seen = (key - query).abs() <= self.halo
            if self.padding == "mask":
                seen &= (key >= 0) & (key < size)
            masks.append(torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, float("-inf")))
        return masks[0], masks[1]


def spread_offsets(rel_NKD: Tensor, tile: int) -> Tensor:
    """(N, K, D) -> (N, T, S, D): the embedding of key s for query t of a tile, zeros outside the window."""
    kernel_size = rel_NKD.shape[1]
    return torch.stack([F.pad(rel_NKD, (0, 0, t, tile - 1 - t)) for t in range(tile)], dim=1).narrow(
        2, 0, tile + kernel_size - 1
    )


def gather_offsets(grad_NTSD: Tensor, kernel_size: int) -> Tensor:
    """The adjoint of `spread_offsets`: (N, T, S, D) -> (N, K, D)."""
    return torch.stack([g.narrow(1, t, kernel_size) for t, g in enumerate(grad_NTSD.unbind(1))]).sum(0)


def tile_logits(
    tiling: Tiling, strip: Strip, query_BNIJPD: Tensor, key: Tensor | None, rel: tuple[Tensor, Tensor] | None
) -> Tensor:
    """q.k + q.r of every query with every key of its tile, -inf outside the window: (B, N, I, J, P, M).

    `query` is already scaled; `rel` holds the spread embeddings (N, T, S, D / 2) and (N, U, Z, D / 2).
    """
    mask_ITS, mask_JUZ = tiling.window_masks(strip, query_BNIJPD)
    row_bias, col_bias = mask_ITS[:, None, :, None], mask_JUZ[None, :, None]
    if rel is not None:
        query_row, query_col = query_BNIJPD.unflatten(4, tiling.tile).chunk(2, dim=-1)
        row_bias = row_bias + torch.einsum("bnijtud,ntsd->bnijtus", query_row, rel[0])
        col_bias = col_bias + torch.einsum("bnijtud,nuzd->bnijtuz", query_col, rel[1])
    bias = (row_bias[..., :, None] + col_bias[..., None, :]).flatten(-2).flatten(-3, -2)
    if key is None:
        return bias
    return (query_BNIJPD @ tiling.key_tiles(key, strip)).add_(bias)


def spread_embeddings(
    tiling: Tiling, rel_row: Tensor | None, rel_col: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """The relative embeddings for each query of a tile, or None without relative positions."""
    if rel_row is None or rel_col is None:
        return None
    return spread_offsets(rel_row.to(dtype), tiling.tile[0]), spread_offsets(rel_col.to(dtype), tiling.tile[1])


def forward(call: LocalForward) -> tuple[Tensor, Tensor]:
    """Eq. 3: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""
    if eager_windows.are_needed(*call.inputs):
        return eager_windows.forward(call)
    query, key, value, rel_row, rel_col = call.inputs
    tiling, scale = Tiling.of(query, call.options), call.options.scale
    output = empty_map(query, value.shape[1])
    logsumexp = query.new_empty((query.shape[0], tiling.num_heads, *query.shape[2:]), dtype=compute_dtype(query))
    with without_autocast(query.device):
        rel = spread_embeddings(tiling, rel_row, rel_col, logsumexp.dtype)
        for strip in tiling.strips(query.shape[0], query.device):
            logits = tile_logits(tiling, strip, tiling.query_tiles(query, strip) * scale, key, rel)
            largest = logits.amax(-1, keepdim=True)
            weights = logits.sub_(largest).exp_()
            total = weights.sum(-1, keepdim=True)
            mixed = (weights @ tiling.key_tiles(value, strip).mT).div_(total)
            rows, output_rows = tiling.map_rows(mixed, strip)
            output[strip.images, :, rows] = output_rows.to(output.dtype)
            rows, logsumexp_rows = tiling.map_rows(total.log_().add_(largest), strip)
            logsumexp[strip.images, :, rows] = logsumexp_rows
    return output, logsumexp


def backward(call: LocalBackward) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Gradients for query, key, value, rel_row, rel_col (None where the input was None).

    With w the weights: dv = w^T dy, dw = dy v^T, dlogit = w (dw - sum(w dw)), and the logits' products from there.
    The output is not needed, although sum(w dw) = dy . y, so the next layer may overwrite it, as after a convolution.
    """
    if eager_windows.are_needed(call.grad_output, *call.inputs):
        return eager_windows.backward(call)
    query, key, value, rel_row, rel_col = call.inputs
    tiling, scale = Tiling.of(query, call.options), call.options.scale
    grad_query = empty_map(query, query.shape[1])
    key_padded = None if key is None else tiling.padded_like(key)
    value_padded = tiling.padded_like(value)
    with without_autocast(query.device):
        rel = spread_embeddings(tiling, rel_row, rel_col, compute_dtype(query))
        grad_rel = None if rel is None else (torch.zeros_like(rel[0]), torch.zeros_like(rel[1]))
        for strip in tiling.strips(query.shape[0], query.device):
            scaled_query = tiling.query_tiles(query, strip) * scale
            weights = tile_logits(tiling, strip, scaled_query, key, rel)
            weights = weights.sub_(tiling.query_tiles(call.logsumexp, strip)).exp_()
            grad_tiles = tiling.query_tiles(call.grad_output, strip)
            tiling.add_key_tiles(value_padded, grad_tiles.mT @ weights, strip)
            grad_logits = (grad_tiles @ tiling.key_tiles(value, strip)).mul_(weights)
            grad_logits.addcmul_(weights, grad_logits.sum(-1, keepdim=True), value=-1)

            grad_scaled_query = torch.zeros_like(scaled_query)
            if key is not None and key_padded is not None:
                tiling.add_key_tiles(key_padded, scaled_query.mT @ grad_logits, strip)
                grad_scaled_query = grad_logits @ tiling.key_tiles(key, strip).mT
            if rel is not None and grad_rel is not None:
                grad_scaled_query = grad_scaled_query + relative_backward(
                    tiling, grad_logits, scaled_query, rel, grad_rel
                )
            rows, query_rows = tiling.map_rows(grad_scaled_query * scale, strip)
            grad_query[strip.images, :, rows] = query_rows.to(grad_query.dtype)

    grad_key = None if key is None or key_padded is None else dense(tiling.crop(key_padded), key)
    grad_value = dense(tiling.crop(value_padded), value)
    if grad_rel is None or rel_row is None or rel_col is None:
        return grad_query, grad_key, grad_value, None, None
    grad_row = gather_offsets(grad_rel[0], tiling.kernel_size).to(rel_row.dtype)
    grad_col = gather_offsets(grad_rel[1], tiling.kernel_size).to(rel_col.dtype)
    return grad_query, grad_key, grad_value, grad_row, grad_col


def relative_backward(
    tiling: Tiling,
    grad_logits_BNIJPM: Tensor,
    scaled_query_BNIJPD: Tensor,
    rel: tuple[Tensor, Tensor],
    grad_rel: tuple[Tensor, Tensor],
) -> Tensor:
    """Add the gradients of the spread embeddings to `grad_rel`; return the gradient of the scaled query from q.r."""
    grad = grad_logits_BNIJPM.unflatten(5, tiling.keys).unflatten(4, tiling.tile)
    grad_row, grad_col = grad.sum(-1), grad.sum(-2)
    query_row, query_col = scaled_query_BNIJPD.unflatten(4, tiling.tile).chunk(2, dim=-1)
    grad_rel[0].add_(torch.einsum("bnijtus,bnijtud->ntsd", grad_row, query_row))
    grad_rel[1].add_(torch.einsum("bnijtuz,bnijtud->nuzd", grad_col, query_col))
    from_row = torch.einsum("bnijtus,ntsd->bnijtud", grad_row, rel[0])
    from_col = torch.einsum("bnijtuz,nuzd->bnijtud", grad_col, rel[1])
    return torch.cat([from_row, from_col], dim=-1).flatten(4, 5)


def dense(gradient: Tensor, like: Tensor) -> Tensor:
    """Return the gradient in the dtype and layout of its input."""
    return empty_map(like, like.shape[1]).copy_(gradient)
