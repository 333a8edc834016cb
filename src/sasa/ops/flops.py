"""FLOPs of the dispatcher ops for torch's FlopCounterMode: 2 for each multiply-add.

The formulas count the products in the equation, for every back-end: q.k and a.v with all keys of the window, also those
beyond the border, and q.r as products of length D/2 with one embedding for each row and each column of the window.
Extra work of a back-end (the tiles of `eager` have more keys than a window) and operations that are not products
(softmax, sums, scaling, pooling, norm) are not counted; torch does not count them for its own attention either.

They take the arguments of an op (`sasa.ops.arguments`) and read only shapes.
"""

from torch import Tensor

from sasa.ops.arguments import (
    BlockBackward,
    BlockForward,
    BlockInputs,
    LocalBackward,
    LocalForward,
    LocalInputs,
    PooledBackward,
    PooledForward,
)


def pixels(map_BCHW: Tensor) -> int:
    """B * H * W."""
    return map_BCHW.shape[0] * map_BCHW.shape[2] * map_BCHW.shape[3]


def _local_products(inputs: LocalInputs, kernel_size: int) -> tuple[int, int, int]:
    """Multiply-adds of a query pixel: q.k, q.r (K rows and K columns, half of the channels each), a.v."""
    query = inputs.query.shape[1]
    content = kernel_size**2 * query if inputs.key is not None else 0
    relative = kernel_size * query if inputs.rel_row is not None else 0
    return content, relative, kernel_size**2 * inputs.value.shape[1]


def local_attention(call: LocalForward) -> int:
    """FLOPs of Eq. 3 on projected maps."""
    return 2 * pixels(call.inputs.query) * sum(_local_products(call.inputs, call.options.kernel_size))


def local_attention_backward(call: LocalBackward) -> int:
    """FLOPs of the gradients: q.k and q.r three times (recomputed, dq, and dk or dr), a.v twice (dv and da)."""
    content, relative, value = _local_products(call.inputs, call.options.kernel_size)
    return 2 * pixels(call.inputs.query) * (3 * content + 3 * relative + 2 * value)


def block_projections(inputs: BlockInputs) -> int:
    """FLOPs of q = w_query x, k = w_key x and v = w_value[position] x for every pixel of the image."""
    channels = inputs.w_query.shape[0]
    if inputs.w_key is not None:
        channels += inputs.w_key.shape[0]
    if inputs.w_value is not None:
        channels += inputs.w_value.shape[1]
    return 2 * pixels(inputs.image) * inputs.image.shape[1] * channels


def _block_products(inputs: BlockInputs, block_size: int) -> tuple[int, int, int]:
    """Multiply-adds of a query pixel: q.k with S * S keys, q.r with S rows and S columns of offsets, a.v."""
    keys, query = block_size**2, inputs.w_query.shape[0]
    content = keys * query if inputs.w_key is not None else 0
    relative = block_size * query if inputs.rel_row is not None else 0
    return content, relative, keys * inputs.value_channels


def block_attention(call: BlockForward | PooledForward) -> int:
    """FLOPs of the stem's attention (Section 3.2): projections, and S * S keys for each pixel; not of pooling."""
    products = sum(_block_products(call.inputs, call.options.block_size))
    return block_projections(call.inputs) + 2 * pixels(call.inputs.image) * products


def block_attention_backward(call: BlockBackward | PooledBackward) -> int:
    """FLOPs of the gradients: products as for local attention, projections twice or three times.

    The projections are recomputed, then the gradient of each matrix is computed, and that of the pixels if needed.
    """
    content, relative, value = _block_products(call.inputs, call.options.block_size)
    projections = (3 if call.image_gradient else 2) * block_projections(call.inputs)
    return projections + 2 * pixels(call.inputs.image) * (3 * content + 3 * relative + 2 * value)
