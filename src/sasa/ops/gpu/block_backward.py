"""The backward kernel of block attention: gradients of the weights' tables, and of maps where they are needed.

The weights of the softmax are recomputed from the saved log-sum-exp; sum(dy y) of a query is computed as the sum of
each weight times its gradient, so the output is not read. A program adds up the tables' gradients of its groups in
registers and writes them once; `block_launch` sums the programs in a fixed order: no atomics, the same bits every time.

Shapes: those of `block_tile`; S also counts the keys where it stands beside P; T programs of each head.
"""
# Triton's language looks like Python to a type checker, but differs in places:
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportOptionalOperand=false
# ruff: noqa: RUF005 - Triton knows no (*tuple, one)

import triton
import triton.language as tl

from sasa.ops.gpu.block_tile import (
    INTERPRETED,
    LN2,
    LOG2E,
    SIZES,
    feature_is,
    fold,
    inside_image,
    load_forms,
    load_tile,
    load_value_weights,
    logits_of,
    place_of,
    product,
    store_tile,
    transposed,
)


@triton.jit(do_not_specialize=SIZES)
def block_backward(
    grad_output, image, forms, w_value, value, logsumexp, part_forms, part_values, part_image, grad_value,
    grad_b, grad_c, grad_h, grad_w, image_b, image_c, image_h, image_w, value_b, value_c, value_h, value_w,
    gvalue_b, gvalue_c, gvalue_h, gvalue_w,
    heads, height, width, blocks_down, groups_across, groups, programs, turns,
    C: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, G: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    K: tl.constexpr, WARPS: tl.constexpr, VALUE_MAP: tl.constexpr, IMAGE_GRADIENT: tl.constexpr,
    TURNS: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr, GRADIENT_PRECISION: tl.constexpr,
):  # fmt: skip
    """part_forms (T, N, C, P, K), part_values (T, N, C, P, EP), part_image (B, N, C, H, W), grad_value like value."""
    head = tl.program_id(0) % heads
    storage = image.dtype.element_ty
    form = load_forms(forms, head, C, S, P, K)
    if not VALUE_MAP:
        weight = load_value_weights(w_value, head, heads, C, E, EP, P, S)
    position, feature = tl.arange(0, P)[None, :, None], tl.arange(0, K)[None, None, :]
    place_GSK = tl.zeros((G, P, K), tl.float32) + feature_is(feature, position, C, S).to(tl.float32)
    position_across, feature_down = tl.arange(0, P)[None, None, :], tl.arange(0, K)[None, :, None]
    place_GKS = tl.zeros((G, K, P), tl.float32) + feature_is(feature_down, position_across, C, S).to(tl.float32)
    KEPT: tl.constexpr = min(G, WARPS)
    sum_forms, sum_values = (), ()
    for _ in tl.static_range(C):
        sum_forms = sum_forms + (tl.zeros((KEPT, P, K), tl.float32),)
        sum_values = sum_values + (tl.zeros((KEPT, P, EP), tl.float32),)
    for turn in range(TURNS if INTERPRETED else turns):
        group = tl.program_id(0) // heads + turn * programs
        b, y, x = place_of(group, blocks_down, groups_across, G, S)
        rows = tl.where(group < groups, height - y, 0)  # the last iteration may have fewer groups
        columns = width - x
        b, y, x = b.to(tl.int64), y.to(tl.int64), x.to(tl.int64)  # a stride may be large in any layout
        pixels = ()
        # Both orientations are computed: that is cheaper than transposing one of them.
        key_GSK, key_GKS = place_GSK, place_GKS
        start = image + (b * image_b + y * image_h + x * image_w)
        for c in tl.static_range(C):
            pixel = load_tile(start + c * image_c, 0, image_h, image_w, rows, columns, 1, 1, G, P, S).to(tl.float32)
            pixels = pixels + (pixel,)
            if c == 0:
                query = pixel * form[c][None]
            else:
                query += pixel * form[c][None]
            key_GSK = tl.where(feature == c, pixel, key_GSK)
            key_GKS = tl.where(feature_down == c, tl.reshape(pixel, (G, 1, P)), key_GKS)
            if not VALUE_MAP:
                if c == 0:
                    mixed = pixel * weight[c][None]
                else:
                    mixed += pixel * weight[c][None]
        if VALUE_MAP:
            start = value + (b * value_b + head.to(tl.int64) * E * value_c + y * value_h + x * value_w)
            mixed = load_tile(start, value_c, value_h, value_w, rows, columns, E, EP, G, P, S)
        start = grad_output + (b * grad_b + head.to(tl.int64) * E * grad_c + y * grad_h + x * grad_w)
        grad = load_tile(start, grad_c, grad_h, grad_w, rows, columns, E, EP, G, P, S)
        start = logsumexp + (((b * heads + head) * height + y) * width + x)
        lse = load_tile(start, 0, width, 1, rows, columns, 1, 1, G, P, S)

        inside = inside_image(rows, columns, G, P, S)
        logits = logits_of(query, key_GKS.to(storage), HALF, PRECISION)
        weights = tl.where(inside[:, None, :] & inside[:, :, None], tl.exp2(logits - lse * LOG2E), 0.0)
        grad_weights = product(grad, transposed(mixed.to(storage)), None, PRECISION)
        delta = tl.sum(weights * grad_weights, 2)
        grad_logits = weights * (grad_weights - delta[:, :, None])
        # In float32 even with half-precision inputs: these numbers are small and would underflow in float16.
        grad_query = product(grad_logits, key_GSK, None, GRADIENT_PRECISION)
        grad_mixed = product(transposed(weights.to(storage)), grad, None, PRECISION)
        more_forms, more_values = (), ()
        for c in tl.static_range(C):
            more_forms = more_forms + (sum_forms[c] + fold(pixels[c] * grad_query, WARPS),)
            more_values = more_values + (sum_values[c] + fold(pixels[c] * grad_mixed, WARPS),)
        sum_forms, sum_values = more_forms, more_values

        if VALUE_MAP:
            start = grad_value + (b * gvalue_b + head.to(tl.int64) * E * gvalue_c + y * gvalue_h + x * gvalue_w)
            store_tile(grad_mixed, start, gvalue_c, gvalue_h, gvalue_w, rows, columns, E, EP, G, P, S)
        if IMAGE_GRADIENT:
            grad_key = product(transposed(grad_logits), query * LN2, None, GRADIENT_PRECISION)
            for c in tl.static_range(C):
                total = tl.sum(grad_query * (form[c] * LN2)[None] + tl.where(feature == c, grad_key, 0.0), 2)
                if not VALUE_MAP:
                    total += tl.sum(grad_mixed * weight[c][None], 2)
                start = part_image + ((((b * heads + head) * C + c) * height + y) * width + x)
                store_tile(tl.reshape(total, (G, P, 1)), start, 0, width, 1, rows, columns, 1, 1, G, P, S)

    p, k, e = tl.arange(0, P)[:, None], tl.arange(0, K)[None, :], tl.arange(0, EP)[None, :]
    for c in tl.static_range(C):
        at = (tl.program_id(0).to(tl.int64) * C + c) * P
        tl.store(part_forms + ((at + p) * K + k), tl.sum(sum_forms[c], 0))
        if not VALUE_MAP:
            tl.store(part_values + ((at + p) * EP + e), tl.sum(sum_values[c], 0))
