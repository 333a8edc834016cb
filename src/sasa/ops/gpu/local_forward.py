"""Forward of local attention: output and log-sum-exp. See local_tile.py for the work of one program.

Shapes: G groups, M queries, S keys of a step, D and E channels of a head of q, k and of v (padded: DP, EP).
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportCallIssue=false

import triton
import triton.language as tl

from sasa.ops.gpu.local_tile import (
    LN2,
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


@triton.jit(do_not_specialize=SIZES)
def local_forward(
    query, key, value, rel_row, rel_col, output, logsumexp,
    q_b, q_c, q_h, q_w, k_b, k_c, k_h, k_w, v_b, v_c, v_h, v_w, y_b, y_c, y_h, y_w,
    row_n, row_k, row_d, col_n, col_k, col_d,
    batch, images, heads, height, width, tiles_x, scale,
    K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, E: tl.constexpr, EP: tl.constexpr,
    CONTENT: tl.constexpr, RELATIVE: tl.constexpr, MASKED: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr, RS: tl.constexpr, CW: tl.constexpr, STEPS: tl.constexpr,
    GN: tl.constexpr, GT: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y = softmax(scale * (q.k + q.r)) v over each query's window, by online softmax over steps of RS key rows."""
    G: tl.constexpr = GN * GT
    M: tl.constexpr = TH * TW
    HALF: tl.constexpr = K // 2
    chunk, head_G, top_G, left_G = place(tl.program_id(0), heads, height, width, tiles_x, GN, GT, TH, TW)
    q_row, q_col = pixels(top_G, left_G, M, TW)
    q_in = inside(q_row, q_col, head_G, heads, height, width)
    log2_scale = scale * LOG2E
    column = left_G[:, None, None] - HALF + tl.arange(0, CW)[None, None, :]
    col_seen = (column >= 0) & (column < width) if MASKED else column == column
    if RELATIVE:
        r = embeddings(
            rel_row, rel_col, head_G, heads, row_n, row_k, row_d, col_n, col_k, col_d, K, KP, D, DP
        )  # fmt: skip

    for n in range(tl.minimum(images, batch - chunk * images)):
        image = (chunk * images + n).to(tl.int64)
        q = load(query, q_row, q_col, q_in, image, head_G, q_b, q_c, q_h, q_w, D, DP, WIDE)

        product = tl.zeros((G, M, 2 * KP), tl.float32)
        if RELATIVE:
            product = times(q, r, PRECISION) * log2_scale
        col_bias = picked(product, column - q_col[:, :, None] + HALF, col_seen, KP, K, RELATIVE)

        largest = tl.full((G, M), float("-inf"), tl.float32)
        total = tl.zeros((G, M), tl.float32)
        mixed = tl.zeros((G, M, EP), tl.float32)
        for step in range(STEPS):
            first_G = top_G - HALF + step * RS
            k_row, k_col = pixels(first_G, left_G - HALF, RS * CW, CW)
            k_in = inside(k_row, k_col, head_G, heads, height, width)
            v = load(value, k_row, k_col, k_in, image, head_G, v_b, v_c, v_h, v_w, E, EP, WIDE)
            row = first_G[:, None, None] + tl.arange(0, RS)[None, None, :]
            row_seen = (row >= 0) & (row < height) if MASKED else row == row
            row_bias = picked(product, row - q_row[:, :, None] + HALF, row_seen, 0, K, RELATIVE)
            logits = tl.zeros((G, M, RS * CW), tl.float32)
            if CONTENT:
                k = load(key, k_row, k_col, k_in, image, head_G, k_b, k_c, k_h, k_w, D, DP, WIDE)
                logits = dot(q, tl.permute(k, (0, 2, 1)), None, PRECISION) * log2_scale
            logits = with_bias(logits, row_bias, col_bias)
            new_largest = tl.maximum(largest, tl.max(logits, 2))
            shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # no key yet
            weights = tl.exp2(logits - shift[:, :, None])
            faded = tl.exp2(largest - shift)
            total = total * faded + tl.sum(weights, 2)
            mixed = dot(weights.to(v.dtype), v, mixed * faded[:, :, None], PRECISION)
            largest = new_largest

        total = tl.where(q_in, total, 1.0)
        store(output, mixed / total[:, :, None], q_row, q_col, q_in, image, head_G, y_b, y_c, y_h, y_w, E, EP, WIDE)
        lse_base = (image * heads + head_G.to(tl.int64)) * height
        at = (lse_base[:, None] + q_row) * width + q_col
        tl.store(logsumexp + at, (largest + tl.log2(total)) * LN2, mask=q_in)
