"""The forward kernel of block attention: Eq. 7-8 with Eq. 3's relative positions, a group of blocks at a time.

A program takes one head and every T-th group, so that the tables of its head stay in registers. Only the
output and the log-sum-exp are written to memory.

Shapes: those of `block_tile`; S also counts the keys where it stands beside P.
"""
# Triton's language looks like Python to a type checker, but differs in places:
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportOptionalOperand=false

import triton
import triton.language as tl

from sasa.ops.gpu.block_tile import (
    INTERPRETED,
    LN2,
    SIZES,
    feature_is,
    inside_image,
    load_forms,
    load_tile,
    load_value_weights,
    log2,
    logits_of,
    place_of,
    product,
    store_tile,
)


@triton.jit(do_not_specialize=SIZES)
def block_forward(
    image, forms, w_value, value, output, logsumexp,
    image_b, image_c, image_h, image_w, value_b, value_c, value_h, value_w, output_b, output_c, output_h, output_w,
    heads, height, width, blocks_down, groups_across, groups, programs, turns,
    C: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, G: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    K: tl.constexpr, VALUE_MAP: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr, TURNS: tl.constexpr,
):  # fmt: skip
    """output (B, N * E, H, W) and logsumexp (B, N, H, W) of image (B, C, H, W)."""
    head = tl.program_id(0) % heads
    storage = image.dtype.element_ty
    form = load_forms(forms, head, C, S, P, K)
    if not VALUE_MAP:
        weight = load_value_weights(w_value, head, heads, C, E, EP, P, S)
    feature, position = tl.arange(0, K)[None, :, None], tl.arange(0, P)[None, None, :]
    place_GKS = tl.zeros((G, K, P), tl.float32) + feature_is(feature, position, C, S).to(tl.float32)
    for turn in range(TURNS if INTERPRETED else turns):
        group = tl.program_id(0) // heads + turn * programs
        b, y, x = place_of(group, blocks_down, groups_across, G, S)
        rows = tl.where(group < groups, height - y, 0)  # the last iteration may have fewer groups
        columns = width - x
        b, y, x = b.to(tl.int64), y.to(tl.int64), x.to(tl.int64)  # a stride may be large in any layout
        start = image + (b * image_b + y * image_h + x * image_w)
        key = place_GKS
        for c in tl.static_range(C):
            pixel = load_tile(start + c * image_c, 0, image_h, image_w, rows, columns, 1, 1, G, P, S).to(tl.float32)
            if c == 0:
                query = pixel * form[c][None]
            else:
                query += pixel * form[c][None]
            key = tl.where(feature == c, tl.reshape(pixel, (G, 1, P)), key)
            if not VALUE_MAP:
                if c == 0:
                    mixed = pixel * weight[c][None]
                else:
                    mixed += pixel * weight[c][None]
        if VALUE_MAP:
            start = value + (b * value_b + head.to(tl.int64) * E * value_c + y * value_h + x * value_w)
            mixed = load_tile(start, value_c, value_h, value_w, rows, columns, E, EP, G, P, S)
        inside = inside_image(rows, columns, G, P, S)
        logits = logits_of(query, key.to(storage), HALF, PRECISION)
        # Finite, so that a block beyond the image, which has no key, gives no NaN; it is never stored.
        logits = tl.where(inside[:, None, :], logits, -1e30)
        largest = tl.max(logits, 2)
        weights = tl.exp2(logits - largest[:, :, None])
        total = tl.sum(weights, 2)
        result = product(weights.to(storage), mixed.to(storage), None, PRECISION)
        result = result * (1.0 / total)[:, :, None]
        start = output + (b * output_b + head.to(tl.int64) * E * output_c + y * output_h + x * output_w)
        store_tile(result, start, output_c, output_h, output_w, rows, columns, E, EP, G, P, S)
        lse = tl.reshape((largest + log2(total)) * LN2, (G, P, 1))
        start = logsumexp + (((b * heads + head) * height + y) * width + x)
        store_tile(lse, start, 0, width, 1, rows, columns, 1, 1, G, P, S)
