"""What the dispatcher ops cost: formulas for torch's FlopCounterMode, 2 for each multiply-add.

They count the products of the equation, whatever back-end runs: q.k and a.v with all keys of the window, also those
beyond the border, and q.r as short products of D/2 with one embedding a row and one a column of the window. What a
back-end computes beyond that (eager's tiles look at more keys than the window has) and what is no product (softmax,
sums, the scale) is not counted, as torch does not count it for its own attention.

Formulas get shapes in place of tensors (None where a tensor is None), then the other arguments of the op.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

import sasa.ops.block_attention
import sasa.ops.block_pooled
import sasa.ops.local_attention
import sasa.ops.qkv_attention  # noqa: F401 - the four define the ops

Shape = Sequence[int]


def pixels(map_BCHW: Shape) -> int:
    """B * H * W of a map's shape."""
    return map_BCHW[0] * map_BCHW[2] * map_BCHW[3]


@register_flop_formula(torch.ops.sasa.local_attention)
def local_attention_flops(
    query: Shape, key: Shape | None, value: Shape, rel_row: Shape | None, rel_col: Shape | None, kernel_size: int,
    *_: Any, **__: Any,
) -> int:  # fmt: skip
    """FLOPS of Eq. 3 on projected maps: q.k and a.v K * K products a query and channel, q.r K (K rows and K columns,
    half of the channels each).
    """
    content = kernel_size**2 * query[1] if key is not None else 0
    relative = kernel_size * query[1] if rel_row is not None else 0
    return 2 * pixels(query) * (content + relative + kernel_size**2 * value[1])


@register_flop_formula(torch.ops.sasa.local_attention_backward)
def local_attention_backward_flops(
    grad_output: Shape, query: Shape, key: Shape | None, value: Shape, rel_row: Shape | None, rel_col: Shape | None,
    logsumexp: Shape, kernel_size: int, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """FLOPS of the gradients: q.k and q.r three times (again for the weights, then dq, and dk or dr), a.v twice.

    a.v is dv = a^T dy and da = dy v^T.
    """
    content = kernel_size**2 * query[1] if key is not None else 0
    relative = kernel_size * query[1] if rel_row is not None else 0
    return 2 * pixels(query) * (3 * content + 3 * relative + 2 * kernel_size**2 * value[1])


def thirds(qkv: Shape, content: bool) -> tuple[Shape, Shape | None, Shape]:
    """Shapes of q, k (None without content) and v that lie in one map."""
    part = (qkv[0], qkv[1] // (3 if content else 2), *qkv[2:])
    return part, part if content else None, part


@register_flop_formula(torch.ops.sasa.qkv_attention)
def qkv_attention_flops(
    qkv: Shape, rel_row: Shape | None, rel_col: Shape | None, kernel_size: int, num_heads: int, content: bool,
    *_: Any, **__: Any,
) -> int:  # fmt: skip
    """As `local_attention_flops` of the thirds."""
    return local_attention_flops(*thirds(qkv, content), rel_row, rel_col, kernel_size)


@register_flop_formula(torch.ops.sasa.qkv_attention_backward)
def qkv_attention_backward_flops(
    grad_output: Shape, qkv: Shape, rel_row: Shape | None, rel_col: Shape | None, logsumexp: Shape,
    kernel_size: int, num_heads: int, content: bool, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """As `local_attention_backward_flops` of the thirds."""
    maps = thirds(qkv, content)
    return local_attention_backward_flops(grad_output, *maps, rel_row, rel_col, logsumexp, kernel_size)


@register_flop_formula(torch.ops.sasa.qkv_attention_inference)
def qkv_attention_inference_flops(
    qkv: Shape, rel_row: Shape | None, rel_col: Shape | None, gain: Shape | None, shift: Shape | None, relu: bool,
    pool: int, kernel_size: int, num_heads: int, content: bool, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """As `qkv_attention_flops`: what follows attention is no product of matrices."""
    return qkv_attention_flops(qkv, rel_row, rel_col, kernel_size, num_heads, content)


def block_projection_flops(image: Shape, w_query: Shape, w_key: Shape | None, w_value: Shape | None) -> int:
    """FLOPS of q = w_query x, k = w_key x and v = w_value[position] x for every pixel of the image."""
    channels = w_query[0] + (w_key[0] if w_key is not None else 0) + (w_value[1] if w_value is not None else 0)
    return 2 * pixels(image) * image[1] * channels


def block_value_channels(w_value: Shape | None, value: Shape | None) -> int:
    """Channels of the output, from the value matrices (P, C_out, C_in) or the map of values (B, C_out, H, W)."""
    given = w_value if w_value is not None else value
    assert given is not None
    return given[1]


@register_flop_formula(torch.ops.sasa.block_attention)
def block_attention_flops(
    image: Shape, w_query: Shape, w_key: Shape | None, w_value: Shape | None, rel_row: Shape | None,
    rel_col: Shape | None, value: Shape | None, block_size: int, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """FLOPS of the stem's attention (Section 3.2): the projections of each pixel, and S * S keys a pixel.

    Each pixel of a block sees S row offsets and S column offsets.
    """
    keys = block_size**2
    content = keys * w_query[0] if w_key is not None else 0
    relative = block_size * w_query[0] if rel_row is not None else 0
    attention = content + relative + keys * block_value_channels(w_value, value)
    return block_projection_flops(image, w_query, w_key, w_value) + 2 * pixels(image) * attention


@register_flop_formula(torch.ops.sasa.block_attention_backward)
def block_attention_backward_flops(
    grad_output: Shape, image: Shape, w_query: Shape, w_key: Shape | None, w_value: Shape | None,
    rel_row: Shape | None, rel_col: Shape | None, value: Shape | None, logsumexp: Shape,
    block_size: int, num_heads: int, scale: float, image_gradient: bool, **_: Any,
) -> int:  # fmt: skip
    """FLOPS of the gradients: products as for local attention; projections twice, thrice if the image needs one.

    The projections are computed again, then the gradient of each matrix, then (image_gradient) that of the pixels.
    """
    keys = block_size**2
    content = keys * w_query[0] if w_key is not None else 0
    relative = block_size * w_query[0] if rel_row is not None else 0
    attention = 3 * content + 3 * relative + 2 * keys * block_value_channels(w_value, value)
    projections = block_projection_flops(image, w_query, w_key, w_value)
    return (3 if image_gradient else 2) * projections + 2 * pixels(image) * attention


@register_flop_formula(torch.ops.sasa.block_attention_pooled)
def block_attention_pooled_flops(
    image: Shape, w_query: Shape, w_key: Shape | None, w_value: Shape | None, rel_row: Shape | None,
    rel_col: Shape | None, value: Shape | None, sign: Shape, block_size: int, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """As `block_attention_flops`: pooling and sums are no products."""
    return block_attention_flops(image, w_query, w_key, w_value, rel_row, rel_col, value, block_size)


@register_flop_formula(torch.ops.sasa.block_attention_pooled_backward)
def block_attention_pooled_backward_flops(
    grad_extreme: Shape, grad_sums: Shape, position: Shape, image: Shape, w_query: Shape, w_key: Shape | None,
    w_value: Shape | None, rel_row: Shape | None, rel_col: Shape | None, value: Shape | None, block_size: int,
    num_heads: int, scale: float, image_gradient: bool, **_: Any,
) -> int:  # fmt: skip
    """As `block_attention_backward_flops`."""
    return block_attention_backward_flops(
        image, image, w_query, w_key, w_value, rel_row, rel_col, value, image, block_size, num_heads, scale,
        image_gradient,
    )  # fmt: skip
