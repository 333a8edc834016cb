"""Functions shared by the block kernels: location of a group of blocks, loading and storing its pixels, its features.

A logit q_p . k_s + q_p . r_{s-p} inside a block is a product of C + 2 S numbers of each side::

    features of key s:    its C channels, 1 at its row of the block, 1 at its column
    features of query p:  x_p @ form[p],  where form[p] holds  scale Wq^T Wk  and  scale Wq^T r  for the S rows and
                          the S columns of the block

With 3 channels and blocks of 4 that is 11 numbers, one step of a tensor core, where q.k alone would need 16 and q.r
another 16. form[p] does not depend on the image, so q and k themselves are never computed.

Shapes: G blocks side by side (a group), P pixels of a block (padded to a power of two, at least 16), S the side of a
block, C channels, K features (padded), E channels of a value (padded), N heads, D channels of a query.
"""
# Triton's language looks like Python to a type checker, but differs in places:
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportOptionalOperand=false
# ruff: noqa: RUF005 - Triton knows no (*tuple, one)

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice

from sasa.ops.gpu import available

# Logits are kept in units of log 2, so that their exponential is one instruction.
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(available.INTERPRETED)

# A new image size or batch size must not recompile the kernels.
SIZES = ("heads", "height", "width", "blocks_down", "groups_across", "groups", "programs", "turns")


@triton.jit
def place_of(group, blocks_down, groups_across, G: tl.constexpr, S: tl.constexpr):
    """Image, first row and first column of a group, which lies in one row of blocks."""
    per_image = blocks_down * groups_across
    image = group // per_image
    rest = group - image * per_image
    down = rest // groups_across
    return image, down * S, (rest - down * groups_across) * (G * S)


@triton.jit
def load_tile(
    start, stride_c, stride_h, stride_w, rows, columns,
    channels: tl.constexpr, padded: tl.constexpr, G: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """(G, P, padded) of a map from `start` on; zeros beyond the `rows` and `columns` that remain of the image."""
    if P == S * S:  # in the order of memory: the columns of neighbouring blocks follow each other
        e, y, x = tl.arange(0, padded)[:, None, None], tl.arange(0, S)[None, :, None], tl.arange(0, G * S)[None, None]
        inside = (e < channels) & (y < rows) & (x < columns)
        tile = tl.load(start + (e * stride_c + y * stride_h + x * stride_w), mask=inside, other=0.0)
        return tl.reshape(tl.permute(tl.reshape(tile, (padded, S, G, S)), (2, 1, 3, 0)), (G, P, padded))
    else:  # noqa: RET505 - Triton compiles one of the two
        p, e = tl.arange(0, P)[None, :, None], tl.arange(0, padded)[None, None, :]
        y, x = p // S, tl.arange(0, G)[:, None, None] * S + p % S
        inside = (e < channels) & (y < rows) & (x < columns) & (p < S * S)
        return tl.load(start + (e * stride_c + y * stride_h + x * stride_w), mask=inside, other=0.0)


@triton.jit
def store_tile(
    tile_GPE, start, stride_c, stride_h, stride_w, rows, columns,
    channels: tl.constexpr, padded: tl.constexpr, G: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """The inverse of `load_tile`: pixels inside the image are written, in the map's dtype."""
    if P == S * S:
        e, y, x = tl.arange(0, padded)[:, None, None], tl.arange(0, S)[None, :, None], tl.arange(0, G * S)[None, None]
        tile = tl.reshape(tl.permute(tl.reshape(tile_GPE, (G, S, S, padded)), (3, 1, 0, 2)), (padded, S, G * S))
        inside = (e < channels) & (y < rows) & (x < columns)
        tl.store(start + (e * stride_c + y * stride_h + x * stride_w), tile.to(start.dtype.element_ty), mask=inside)
    else:
        p, e = tl.arange(0, P)[None, :, None], tl.arange(0, padded)[None, None, :]
        y, x = p // S, tl.arange(0, G)[:, None, None] * S + p % S
        inside = (e < channels) & (y < rows) & (x < columns) & (p < S * S)
        tl.store(start + (e * stride_c + y * stride_h + x * stride_w), tile_GPE.to(start.dtype.element_ty), mask=inside)


@triton.jit
def inside_image(rows, columns, G: tl.constexpr, P: tl.constexpr, S: tl.constexpr):
    """(G, P): which pixels of the group are pixels of the image."""
    p = tl.arange(0, P)[None, :]
    return (p < S * S) & (p // S < rows) & (tl.arange(0, G)[:, None] * S + p % S < columns)


@triton.jit
def load_forms(forms, head, C: tl.constexpr, S: tl.constexpr, P: tl.constexpr, K: tl.constexpr):
    """For each channel (P, K): the matrix from a pixel to its query features, from forms (N, C, C + 2 * (2 S - 1)).

    The second axis of `forms` holds the C columns of Wq^T Wk, then the 2 S - 1 row offsets, then the column offsets.
    """
    OFFSETS: tl.constexpr = 2 * S - 1
    p, k = tl.arange(0, P)[:, None], tl.arange(0, K)[None, :]
    row = k - p // S + S - 1
    column = k - S - p % S + OFFSETS + S - 1
    index = tl.where(k < C, k, tl.where(k < C + S, row, column))
    used = (k < C + 2 * S) & (p < S * S)
    result = ()
    for c in tl.static_range(C):
        result = result + (tl.load(forms + (head * C + c) * (C + 2 * OFFSETS) + index, mask=used, other=0.0),)
    return result


@triton.jit
def load_value_weights(w_value, head, heads, C: tl.constexpr, E: tl.constexpr, EP: tl.constexpr,
                       P: tl.constexpr, S: tl.constexpr):  # fmt: skip
    """For each channel (P, EP) in float32: the value matrices of the positions, from w_value (P, N * E, C)."""
    p, e = tl.arange(0, P)[:, None], tl.arange(0, EP)[None, :]
    result = ()
    for c in tl.static_range(C):
        at = ((p * heads + head) * E + e) * C + c
        result = result + (tl.load(w_value + at, mask=(p < S * S) & (e < E), other=0.0).to(tl.float32),)
    return result


@triton.jit
def feature_is(feature, position, C: tl.constexpr, S: tl.constexpr):
    """Return whether a key's feature is the one for the row (or column) of the pixel at some position of the block."""
    return ((feature - C == position // S) | (feature - C - S == position % S)) & (position < S * S)


@triton.jit
def log2(x):
    """Compute log2 in one instruction, exact to 2**-22; tl.log2 takes twenty."""
    if INTERPRETED:
        return tl.log2(x)
    else:  # noqa: RET505 - Triton compiles one of the two
        return libdevice.fast_log2f(x)


@triton.jit
def product(left, right, sum_before, PRECISION: tl.constexpr):
    """left (G, I, J) @ right (G, J, L) + sum_before, in float32."""
    if INTERPRETED:  # the interpreter multiplies the bits of bfloat16
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, sum_before, input_precision=PRECISION)


@triton.jit
def transposed(tile):
    """(G, I, J) -> (G, J, I)."""
    return tl.permute(tile, (0, 2, 1))


@triton.jit
def logits_of(query_GPK, key_GKS, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """The product of the features, (G, P, S), as exact as float32.

    Pixels in half precision are exact as they are; the query's features are not, and go in as two halves.
    """
    if HALF:
        high = query_GPK.to(key_GKS.dtype)
        low = (query_GPK - high.to(tl.float32)).to(key_GKS.dtype)
        return product(high, key_GKS, product(low, key_GKS, None, PRECISION), PRECISION)
    else:  # noqa: RET505
        return product(query_GPK, key_GKS, None, PRECISION)


@triton.jit
def fold(tile, WARPS: tl.constexpr):
    """(G, I, J) -> (WARPS, I, J): the sum of the blocks of a warp, which each of its threads holds in registers."""
    G: tl.constexpr = tile.shape[0]
    if G <= WARPS:
        return tile
    else:  # noqa: RET505
        return tl.sum(tl.reshape(tile, (G // WARPS, WARPS, tile.shape[1], tile.shape[2])), 0)
