"""Backward of local attention by tiles of queries: delta, and the gradients of q and of the embeddings.

With w the weights, recomputed from the log-sum-exp:

    dw = dy . v,  delta = sum over ab of w dw,  ds = scale * w (dw - delta),  dq = ds (k + r),  dr = sum of ds q

delta is dy . y, but y is not read: the next layer may have overwritten it in place, as after a convolution. If one step
holds all keys of a tile, one pass over the keys is enough; otherwise delta takes a pass of its own. (Folding delta into
sums, dq = sum w dw k - delta sum w k, saves that pass and loses digits where dw hardly varies.)

Shapes: G groups, M queries, S keys of a step, R rows and C columns of it, O offsets (first rows, then columns).
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportAssignmentType=false

import triton
import triton.language as tl

from sasa.ops.gpu.local_tile import (
    LOG2E,
    SIZES,
    dot,
    embeddings,
    inside,
    load,
    picked,
    pixels,
    place,
    store,
    times,
    with_bias,
)


@triton.jit
def pad_to_parts(sums_GMR, part, PARTS: tl.constexpr):
    """(G, M, PARTS * R): zeros except for the sums, which are in part number `part`.

    A step has few rows, and tl.gather needs at least one number for each thread: with fewer, Triton before 3.9 fails to
    compile it. So the rows of all steps are gathered together, which also takes one gather instead of STEPS.
    """
    G: tl.constexpr = sums_GMR.shape[0]
    M: tl.constexpr = sums_GMR.shape[1]
    R: tl.constexpr = sums_GMR.shape[2]
    if PARTS == 1:
        return sums_GMR
    else:  # noqa: RET505 - Triton compiles one of the two
        here = tl.arange(0, PARTS)[None, None, :, None] == part
        return tl.reshape(tl.where(here, sums_GMR[:, :, None, :], 0.0), (G, M, PARTS * R))


@triton.jit
def offset_sums(grad_GMR, index_GMO, wanted_GMO):
    """The adjoint of `picked`: grad[..., index], (G, M, O); zero where not wanted, or the index is outside of R."""
    there = wanted_GMO & (index_GMO >= 0) & (index_GMO < grad_GMR.shape[2])
    return tl.where(there, tl.gather(grad_GMR, tl.where(there, index_GMO, 0), axis=2), 0.0)


@triton.jit
def weights_of_step(
    step, q, dy, product, col_bias, key, value, image, head_G, top_G, left_G, q_row,
    k_b, k_c, k_h, k_w, v_b, v_c, v_h, v_w, heads, height, width, log2_scale,
    K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, E: tl.constexpr, EP: tl.constexpr,
    CONTENT: tl.constexpr, RELATIVE: tl.constexpr, MASKED: tl.constexpr, RS: tl.constexpr, CW: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """w and dw of the keys of one step, (G, M, S) each, and the keys (G, S, D); without content, the values."""
    HALF: tl.constexpr = K // 2
    first_G = top_G - HALF + step * RS
    k_row, k_col = pixels(first_G, left_G - HALF, RS * CW, CW)
    k_in = inside(k_row, k_col, head_G, heads, height, width)
    v = load(value, k_row, k_col, k_in, image, head_G, v_b, v_c, v_h, v_w, E, EP, WIDE)
    row = first_G[:, None, None] + tl.arange(0, RS)[None, None, :]
    row_seen = (row >= 0) & (row < height) if MASKED else row == row
    row_bias = picked(product, row - q_row[:, :, None] + HALF, row_seen, 0, K, RELATIVE)
    if CONTENT:
        k = load(key, k_row, k_col, k_in, image, head_G, k_b, k_c, k_h, k_w, D, DP, WIDE)
        logits = dot(q, tl.permute(k, (0, 2, 1)), None, PRECISION) * log2_scale
    else:
        k = v
        logits = tl.zeros((q.shape[0], q.shape[1], RS * CW), tl.float32)
    weights = tl.exp2(with_bias(logits, row_bias, col_bias))
    return weights, dot(dy, tl.permute(v, (0, 2, 1)), None, PRECISION), k


@triton.jit
def store_part(grad_rel, dr_GOD, heads, GN: tl.constexpr, GT: tl.constexpr):
    """Write the sum over the tiles of this program, for each of its heads: grad_rel is (programs, N, O, D)."""
    O: tl.constexpr = dr_GOD.shape[1]  # noqa: E741
    D: tl.constexpr = dr_GOD.shape[2]
    dr_NOD = tl.sum(tl.reshape(dr_GOD, (GN, GT, O, D)), 1)
    groups = tl.cdiv(heads, GN)
    head = ((tl.program_id(0) % groups) * GN + tl.arange(0, GN))[:, None, None]
    part = (tl.program_id(0) // groups).to(tl.int64) * heads + head
    within = tl.arange(0, O)[None, :, None] * D + tl.arange(0, D)[None, None, :]
    tl.store(grad_rel + part * (O * D) + within, dr_NOD, mask=(head < heads) & (within >= 0))


@triton.jit(do_not_specialize=SIZES)
def local_queries(
    grad_output, query, key, value, rel_row, rel_col, logsumexp, delta_out, grad_query, grad_rel,
    y_b, y_c, y_h, y_w, q_b, q_c, q_h, q_w, k_b, k_c, k_h, k_w, v_b, v_c, v_h, v_w, g_b, g_c, g_h, g_w,
    row_n, row_k, row_d, col_n, col_k, col_d,
    batch, images, heads, height, width, tiles_x, scale,
    K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, E: tl.constexpr, EP: tl.constexpr,
    CONTENT: tl.constexpr, RELATIVE: tl.constexpr, MASKED: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr, RS: tl.constexpr, CW: tl.constexpr, STEPS: tl.constexpr,
    GN: tl.constexpr, GT: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    SINGLE: tl.constexpr,
):  # fmt: skip
    """delta (B, N, H, W), grad_query, and grad_rel (programs of a head, N, O, DP).

    SINGLE: each program has one image, and nothing is kept in registers across images.
    """
    G: tl.constexpr = GN * GT
    M: tl.constexpr = TH * TW
    HALF: tl.constexpr = K // 2
    # At least 16 rows and 16 columns to gather from: one number for each thread, see `pad_to_parts`.
    ROW_PARTS: tl.constexpr = max(triton.next_power_of_2(STEPS), 16 // RS)
    COL_PARTS: tl.constexpr = max(1, 16 // CW)
    chunk, head_G, top_G, left_G = place(tl.program_id(0), heads, height, width, tiles_x, GN, GT, TH, TW)
    q_row, q_col = pixels(top_G, left_G, M, TW)
    q_in = inside(q_row, q_col, head_G, heads, height, width)
    log2_scale = scale * LOG2E
    column = left_G[:, None, None] - HALF + tl.arange(0, CW)[None, None, :]
    col_seen = (column >= 0) & (column < width) if MASKED else column == column
    offset = tl.arange(0, 2 * KP)[None, None, :] + 0 * q_row[:, :, None]
    # Index of the row a = i + offset within the rows of all steps; likewise for columns.
    row_index = offset + (q_row - top_G[:, None])[:, :, None]
    col_index = offset - KP + (q_col - left_G[:, None])[:, :, None]
    is_row, is_col = offset < K, (offset >= KP) & (offset < KP + K)
    if RELATIVE:
        r = embeddings(
            rel_row, rel_col, head_G, heads, row_n, row_k, row_d, col_n, col_k, col_d, K, KP, D, DP
        )  # fmt: skip
        dr = tl.zeros((G, 2 * KP, DP), tl.float32)

    count = 1 if SINGLE else tl.minimum(images, batch - chunk * images)
    # With one or two steps no registers are left for values that are the same for every image: do not hoist them.
    for n in tl.range(count, disable_licm=STEPS <= 2):
        image = (chunk * images + n).to(tl.int64)
        q = load(query, q_row, q_col, q_in, image, head_G, q_b, q_c, q_h, q_w, D, DP, WIDE)
        dy = load(grad_output, q_row, q_col, q_in, image, head_G, y_b, y_c, y_h, y_w, E, EP, WIDE)
        at = (((image * heads + head_G.to(tl.int64)) * height)[:, None] + q_row) * width + q_col
        lse = tl.load(logsumexp + at, mask=q_in, other=float("inf")) * LOG2E  # outside the map: weight 0
        product = tl.zeros((G, M, 2 * KP), tl.float32)
        if RELATIVE:
            product = times(q, r, PRECISION) * log2_scale
        col_bias = picked(product, column - q_col[:, :, None] + HALF, col_seen, KP, K, RELATIVE) - lse[:, :, None]

        delta = tl.zeros((G, M), tl.float32)
        if STEPS > 1:
            for step in range(STEPS):
                weights, grad_weights, k = weights_of_step(
                    step, q, dy, product, col_bias, key, value, image, head_G, top_G, left_G, q_row,
                    k_b, k_c, k_h, k_w, v_b, v_c, v_h, v_w, heads, height, width, log2_scale,
                    K, D, DP, E, EP, CONTENT, RELATIVE, MASKED, RS, CW, PRECISION, WIDE,
                )  # fmt: skip
                delta += tl.sum(weights * grad_weights, 2)

        dq = tl.zeros((G, M, DP), tl.float32)
        col_sums = tl.zeros((G, M, CW), tl.float32)
        row_sums = tl.zeros((G, M, ROW_PARTS * RS), tl.float32)
        for step in range(STEPS):
            weights, grad_weights, k = weights_of_step(
                step, q, dy, product, col_bias, key, value, image, head_G, top_G, left_G, q_row,
                k_b, k_c, k_h, k_w, v_b, v_c, v_h, v_w, heads, height, width, log2_scale,
                K, D, DP, E, EP, CONTENT, RELATIVE, MASKED, RS, CW, PRECISION, WIDE,
            )  # fmt: skip
            if STEPS == 1:
                delta = tl.sum(weights * grad_weights, 2)
            ds = weights * (grad_weights * scale - (delta * scale)[:, :, None])
            if CONTENT:
                dq = dot(ds.to(k.dtype), k, dq, PRECISION)
            if RELATIVE:
                ds_rows = tl.reshape(ds, (G, M, RS, CW))
                row_sums += pad_to_parts(tl.sum(ds_rows, 3), step, ROW_PARTS)
                col_sums += tl.sum(ds_rows, 2)
        tl.store(delta_out + at, delta, mask=q_in)
        if RELATIVE:
            dproduct = offset_sums(row_sums, row_index, is_row)
            dproduct += offset_sums(pad_to_parts(col_sums, 0, COL_PARTS), col_index, is_col)
            dproduct = dproduct.to(q.dtype)
            dq = dot(dproduct, r.to(q.dtype), dq, PRECISION)
            dr = dot(tl.permute(dproduct, (0, 2, 1)), q, dr, PRECISION)
        store(grad_query, dq, q_row, q_col, q_in, image, head_G, g_b, g_c, g_h, g_w, D, DP, WIDE)
    if RELATIVE:
        store_part(grad_rel, dr, heads, GN, GT)
