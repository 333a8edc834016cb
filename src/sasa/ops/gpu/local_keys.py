"""Backward of local attention by tiles of keys: the gradients of k and v.

Windows are symmetric: the queries that attend to a key lie in the window around the key. So each program sums, for a
tile of keys, over the queries around it. Without atomics, two runs agree to the last bit.

Shapes: G groups, M keys of a group, S queries of a step, T rows and U columns of the tile of keys.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportCallIssue=false

import triton
import triton.language as tl

from sasa.ops.gpu.local_tile import LOG2E, SIZES, dot, embeddings, inside, load, picked, pixels, place, store, times


@triton.jit(do_not_specialize=SIZES)
def local_keys(
    grad_output, query, key, value, rel_row, rel_col, logsumexp, delta_in, grad_key, grad_value,
    y_b, y_c, y_h, y_w, q_b, q_c, q_h, q_w, k_b, k_c, k_h, k_w, v_b, v_c, v_h, v_w, g_b, g_c, g_h, g_w,
    e_b, e_c, e_h, e_w, row_n, row_k, row_d, col_n, col_k, col_d,
    batch, images, heads, height, width, tiles_x, scale,
    K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, E: tl.constexpr, EP: tl.constexpr,
    CONTENT: tl.constexpr, RELATIVE: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr, RS: tl.constexpr, CW: tl.constexpr, STEPS: tl.constexpr,
    GN: tl.constexpr, GT: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dv = sum of w dy and dk = sum of ds q over the queries that attend to a key."""
    G: tl.constexpr = GN * GT
    M: tl.constexpr = TH * TW
    S: tl.constexpr = RS * CW
    HALF: tl.constexpr = K // 2
    chunk, head_G, top_G, left_G = place(tl.program_id(0), heads, height, width, tiles_x, GN, GT, TH, TW)
    k_row, k_col = pixels(top_G, left_G, M, TW)
    k_in = inside(k_row, k_col, head_G, heads, height, width)
    log2_scale = scale * LOG2E
    tile_row = top_G[:, None, None] + tl.arange(0, TH)[None, None, :]
    tile_col = left_G[:, None, None] + tl.arange(0, TW)[None, None, :]
    if RELATIVE:
        r = embeddings(
            rel_row, rel_col, head_G, heads, row_n, row_k, row_d, col_n, col_k, col_d, K, KP, D, DP
        )  # fmt: skip

    for n in range(tl.minimum(images, batch - chunk * images)):
        image = (chunk * images + n).to(tl.int64)
        v = load(value, k_row, k_col, k_in, image, head_G, v_b, v_c, v_h, v_w, E, EP, WIDE)
        if CONTENT:
            k = load(key, k_row, k_col, k_in, image, head_G, k_b, k_c, k_h, k_w, D, DP, WIDE)
        lse_base = (image * heads + head_G.to(tl.int64)) * height

        dk = tl.zeros((G, M, DP), tl.float32)
        dv = tl.zeros((G, M, EP), tl.float32)
        for step in range(STEPS):
            q_row, q_col = pixels(top_G - HALF + step * RS, left_G - HALF, S, CW)
            q_in = inside(q_row, q_col, head_G, heads, height, width)
            dy = load(grad_output, q_row, q_col, q_in, image, head_G, y_b, y_c, y_h, y_w, E, EP, WIDE)
            q = load(query, q_row, q_col, q_in, image, head_G, q_b, q_c, q_h, q_w, D, DP, WIDE)
            at = (lse_base[:, None] + q_row) * width + q_col
            lse = tl.load(logsumexp + at, mask=q_in, other=float("inf")) * LOG2E  # outside the map: weight 0
            delta = tl.load(delta_in + at, mask=q_in, other=0.0) * scale
            product = tl.zeros((G, S, 2 * KP), tl.float32)
            if RELATIVE:
                product = times(q, r, PRECISION) * log2_scale
            row_offset, col_offset = tile_row - q_row[:, :, None] + HALF, tile_col - q_col[:, :, None] + HALF
            row_bias = picked(product, row_offset, row_offset == row_offset, 0, K, RELATIVE)
            col_bias = picked(product, col_offset, col_offset == col_offset, KP, K, RELATIVE) - lse[:, :, None]
            row_bias = tl.permute(row_bias, (0, 2, 1))
            col_bias = tl.permute(col_bias, (0, 2, 1))
            logits = tl.zeros((G, M, S), tl.float32)
            if CONTENT:
                logits = dot(k, tl.permute(q, (0, 2, 1)), None, PRECISION) * log2_scale
            logits = tl.reshape(logits, (G, TH, TW, S)) + row_bias[:, :, None, :] + col_bias[:, None, :, :]
            weights = tl.exp2(tl.reshape(logits, (G, M, S)))
            dv = dot(weights.to(dy.dtype), dy, dv, PRECISION)
            if CONTENT:
                grad_weights = dot(v, tl.permute(dy, (0, 2, 1)), None, PRECISION)
                ds = weights * (grad_weights * scale - delta[:, None, :])
                dk = dot(ds.to(q.dtype), q, dk, PRECISION)
        store(grad_value, dv, k_row, k_col, k_in, image, head_G, e_b, e_c, e_h, e_w, E, EP, WIDE)
        if CONTENT:
            store(grad_key, dk, k_row, k_col, k_in, image, head_G, g_b, g_c, g_h, g_w, D, DP, WIDE)
