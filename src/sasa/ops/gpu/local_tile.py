"""Functions shared by the local attention kernels: location of a tile, reading and writing its pixels, its bias.

A program works on G groups (GN heads x GT tiles side by side) of one image, one warp each. A group is a tile of
M = TH x TW = 16 queries, as many as one tensor-core product takes, and the S keys that they see: RS rows of CW columns
at a time, CW a power of two that holds TW + K - 1. For K = 7 that is 8 x 2 queries and 16 x 8 keys, of which 14 x 8
are real and 7 x 7 belong to each query: 38 %. An 8 x 8 tile with 14 rows of 16 keys has 22 %; and it is the work on
logits (bias, exp, sums; about 7 instructions each), not the products, that takes the time at the small heads of early
layers. Neighbouring groups share their halos through the L1 cache.

The keys of a query form a rectangle, its window clipped to the map. So the mask is one bias for each row plus one for
each column (0 or -inf), and relative logits have the same form: bias = row_bias[q, a] + col_bias[q, b].

Shapes: G groups, M queries (or keys) of a group, S keys (or queries) of a step, R rows and C columns of a step,
D channels padded to a power of two >= 16, O = 2 * KP offsets (first rows, then columns; KP a power of two >= K).
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportCallIssue=false

import triton
import triton.language as tl

from sasa.ops.gpu import available

INTERPRETED = tl.constexpr(available.INTERPRETED)
# Arguments that Triton must not specialise a kernel on: new values do not recompile it.
SIZES = ["batch", "images", "heads", "height", "width", "tiles_x"]
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(
    program, heads, height, width, tiles_x, GN: tl.constexpr, GT: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr
):
    """Program number -> chunk of images, and for each group: head, first row and column of its tile; (G,) each."""
    tiles_y = tl.cdiv(height, TH)
    head_groups = tl.cdiv(heads, GN)
    group = tl.arange(0, GN * GT)
    head_G = (program % head_groups) * GN + group // GT
    program = program // head_groups
    left_G = ((program % tiles_x) * GT + group % GT) * TW
    program = program // tiles_x
    top = (program % tiles_y) * TH
    return program // tiles_y, head_G, top + 0 * group, left_G


@triton.jit
def pixels(corner_top_G, corner_left_G, COUNT: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns (G, COUNT) of the pixels of a rectangle, row by row, from its corner."""
    x = tl.arange(0, COUNT)
    return corner_top_G[:, None] + (x // COLUMNS)[None, :], corner_left_G[:, None] + (x % COLUMNS)[None, :]


@triton.jit
def inside(row, col, head_G, heads, height, width):
    """Return whether pixels (G, X) are inside the map and their head exists."""
    return (row >= 0) & (row < height) & (col >= 0) & (col < width) & (head_G < heads)[:, None]


@triton.jit
def addresses(
    row, col, image, head_G, stride_b, stride_c, stride_h, stride_w,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Offsets (G, X, PADDED) of the channels of a head at some pixels. WIDE: an image has 2**31 elements or more."""
    channel = tl.arange(0, PADDED)
    base_G = image * stride_b + head_G.to(tl.int64) * CHANNELS * stride_c
    if WIDE:
        row, col, channel = row.to(tl.int64), col.to(tl.int64), channel.to(tl.int64)
    within = (row * stride_h + col * stride_w)[:, :, None] + (channel * stride_c)[None, None, :]
    return base_G[:, None, None] + within


@triton.jit
def load(
    pointer, row, col, present, image, head_G, stride_b, stride_c, stride_h, stride_w,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """(G, X, PADDED): the channels of a head at some pixels, zeros where not present."""
    offsets = addresses(row, col, image, head_G, stride_b, stride_c, stride_h, stride_w, CHANNELS, PADDED, WIDE)
    mask = present[:, :, None] & (tl.arange(0, PADDED) < CHANNELS)[None, None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def store(
    pointer, tile, row, col, present, image, head_G, stride_b, stride_c, stride_h, stride_w,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write channels (G, X, PADDED) of a head at some pixels, where present: the inverse of `load`."""
    offsets = addresses(row, col, image, head_G, stride_b, stride_c, stride_h, stride_w, CHANNELS, PADDED, WIDE)
    mask = present[:, :, None] & (tl.arange(0, PADDED) < CHANNELS)[None, None, :]
    tl.store(pointer + offsets, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def embeddings(
    rel_row, rel_col, head_G, heads, row_n, row_k, row_d, col_n, col_k, col_d,
    K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """(G, O, D) for q.r by one product: row offset o is [rel_row[o], 0], column offset o is [0, rel_col[o]]."""
    offset = tl.arange(0, 2 * KP)[None, :, None]
    channel = tl.arange(0, DP)[None, None, :]
    head = head_G[:, None, None]
    there = head < heads
    is_row = there & (offset < K) & (channel < D // 2)
    is_col = there & (offset >= KP) & (offset < KP + K) & (channel >= D // 2) & (channel < D)
    rows = tl.load(rel_row + head * row_n + offset * row_k + channel * row_d, mask=is_row, other=0.0)
    at_col = head * col_n + (offset - KP) * col_k + (channel - D // 2) * col_d
    return tl.where(is_row, rows, tl.load(rel_col + at_col, mask=is_col, other=0.0))


@triton.jit
def dot(left, right, total, PRECISION: tl.constexpr):
    """total + left . right, in float32; total may be None."""
    if INTERPRETED:  # the interpreter multiplies the bits of bfloat16 numbers as if they were integers
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def times(left, right, PRECISION: tl.constexpr):
    """left (G, M, D) . right (G, O, D)^T -> (G, M, O); a float32 right beside a half precision left stays exact.

    It is split into two terms of half precision, which hold 16 (bfloat16) or 22 bits of it.
    """
    right = tl.permute(right, (0, 2, 1))
    high = right.to(left.dtype)
    product = dot(left, high, None, PRECISION)
    if right.dtype != left.dtype:
        product = dot(left, (right - high.to(tl.float32)).to(left.dtype), product, PRECISION)
    return product


@triton.jit
def picked(product_GMO, offset_GMR, seen_GMR, FIRST: tl.constexpr, K: tl.constexpr, RELATIVE: tl.constexpr):
    """Bias (G, M, R): product[..., FIRST + offset] where 0 <= offset < K and seen, else -inf."""
    ok = seen_GMR & (offset_GMR >= 0) & (offset_GMR < K)
    if RELATIVE:
        index = FIRST + tl.where(ok, offset_GMR, 0)
        return tl.where(ok, tl.gather(product_GMO, index, axis=2), float("-inf"))
    return tl.where(ok, 0.0, float("-inf"))


@triton.jit
def with_bias(logits_GMS, row_bias_GMR, col_bias_GMC):
    """logits + row_bias + col_bias, for keys that lie row by row."""
    G: tl.constexpr = row_bias_GMR.shape[0]
    M: tl.constexpr = row_bias_GMR.shape[1]
    R: tl.constexpr = row_bias_GMR.shape[2]
    C: tl.constexpr = col_bias_GMC.shape[2]
    logits = tl.reshape(logits_GMS, (G, M, R, C))
    return tl.reshape((logits + row_bias_GMR[:, :, :, None]) + col_bias_GMC[:, :, None, :], (G, M, R * C))
