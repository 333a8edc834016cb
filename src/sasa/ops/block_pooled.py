"""`sasa::block_attention_pooled`: the stem's attention, reduced to what its batch norm and max pool need.

Batch norm is y * gain + shift for each channel, so max pooling after it takes the largest y of a block where the gain
is positive and the smallest where it is negative. The map y at full resolution, 16 times the result for blocks of
4 x 4, is never written. The sums of y and y * y, which batch norm needs in training, are computed alongside.

Shapes: B batch, C image channels, H x W the image, N heads, D query channels and E value channels of a head,
S the block size, P = S * S the pixels of a block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops import eager_block, flops, reference
from sasa.ops.arguments import BlockBackward, BlockForward, BlockInputs, BlockOptions, PooledBackward, PooledForward
from sasa.ops.call import call_op
from sasa.ops.gradients import Gradient, SecondGradient, composed_gradients
from sasa.ops.precision import autocast_to, compute_dtype, empty_map, without_autocast
from sasa.ops.reference import from_blocks, to_blocks
from sasa.ops.register import fake_gradients, register


def block_attention_pooled(inputs: BlockInputs, sign: Tensor, options: BlockOptions) -> tuple[Tensor, Tensor]:
    """Compute `block_attention`, then the extreme of each block and the sums over all pixels.

    Args:
        inputs: as for `block_attention`.
        sign: (N * E,); a channel is pooled by its maximum where this is >= 0, else by its minimum.
        options: block_size S of at most 16.

    Returns:
        The extremes (B, N * E, ceil(H / S), ceil(W / S)), and (2, N * E) in float64: the sums of y and of y * y over
        the pixels of all images. Both are differentiable.
    """
    if options.block_size > 16:
        raise ArgumentError(f"block_size ({options.block_size}) must be at most 16: a position in it is one byte")
    image, w_query, w_key, w_value, rel_row, rel_col, value = inputs
    *rounded, value = autocast_to(image.device, image, w_query, w_key, w_value, value)
    inputs = BlockInputs(*rounded, rel_row, rel_col, value)  # pyright: ignore
    with without_autocast(image.device):
        extreme, _position, sums = call_op("block_attention_pooled", *inputs, sign, *options)
    return extreme, sums


def _size(image: Tensor, block_size: int) -> tuple[int, int]:
    return -(-image.shape[2] // block_size), -(-image.shape[3] // block_size)


def _forward(call: PooledForward) -> tuple[Tensor, Tensor, Tensor]:
    image, block_size = call.inputs.image, call.options.block_size
    y = eager_block.forward(BlockForward(call.inputs, call.options))[0].to(compute_dtype(image))
    size = _size(image, block_size)
    extreme = empty_map(image, y.shape[1], size=size)
    position = empty_map(image, y.shape[1], dtype=torch.uint8, size=size)
    toward = torch.where(call.sign < 0, -1, 1).to(y.dtype)[:, None, None]
    flat_BCP, index = F.max_pool2d(y * toward, block_size, ceil_mode=True, return_indices=True)
    extreme.copy_(flat_BCP * toward)
    row, column = index // image.shape[3] % block_size, index % image.shape[3] % block_size
    position.copy_(row * block_size + column)
    wide = y.double()
    return extreme, position, torch.stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])


def _backward(call: PooledBackward) -> tuple[Tensor | None, ...]:
    image, block_size = call.inputs.image, call.options.block_size
    y, logsumexp = eager_block.forward(BlockForward(call.inputs, call.options))
    dtype = logsumexp.dtype
    sum_C, square_C = call.grad_sums.to(dtype)
    chosen = F.one_hot(call.position.long(), block_size**2).permute(0, 2, 3, 4, 1)  # (B, I, J, P, C)
    chosen = torch.where(chosen > 0, call.grad_extreme.to(dtype).permute(0, 2, 3, 1)[..., None, :], 0.0)
    grad = from_blocks(chosen, image.shape[2], image.shape[3], block_size)
    grad = grad + sum_C[:, None, None] + 2 * square_C[:, None, None] * y.to(dtype)
    return eager_block.backward(BlockBackward(grad, call.inputs, logsumexp, call.options, call.image_gradient))


def _composed_backward(call: PooledBackward) -> tuple[Tensor | None, ...]:
    """Compute the gradients through the reference, with each extreme taken at its recorded position."""
    index_BIJ1C = call.position.long().permute(0, 2, 3, 1)[:, :, :, None]

    def pooled(inputs: BlockInputs) -> tuple[Tensor, Tensor]:
        y = reference.block_attention(inputs, call.options)[0]
        extreme = to_blocks(y, call.options.block_size).gather(3, index_BIJ1C)[:, :, :, 0].permute(0, 3, 1, 2)
        wide = y.double()
        return extreme, torch.stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])

    return composed_gradients(pooled, call.inputs, [call.grad_extreme, call.grad_sums])


def _fake(call: PooledForward) -> tuple[Tensor, Tensor, Tensor]:
    image, channels = call.inputs.image, call.inputs.value_channels
    size = _size(image, call.options.block_size)
    sums = image.new_empty((2, channels), dtype=torch.float64)
    return empty_map(image, channels, size=size), empty_map(image, channels, torch.uint8, size), sums


def _gradient(grads, inputs, position, options, image_gradient):
    grad_extreme, _, grad_sums = grads
    if grad_extreme is None:
        grad_extreme = empty_map(inputs[0], position.shape[1], size=position.shape[2:]).zero_()
    if grad_sums is None:
        grad_sums = inputs[0].new_zeros((2, position.shape[1]), dtype=torch.float64)
    return call_op(
        "block_attention_pooled_backward", grad_extreme, grad_sums, position, *inputs, *options, image_gradient
    )


register(
    "block_attention_pooled -> (Tensor extreme, Tensor position, Tensor sums)",
    PooledForward,
    plain=_forward,
    fake=_fake,
    gradient=Gradient(inputs=7, skipped=1, kept=1, backward=_gradient),  # skipped: the signs
    flops=flops.block_attention,
)
register(
    "block_attention_pooled_backward -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    PooledBackward,
    plain=_backward,
    fake=fake_gradients,
    gradient=SecondGradient(_composed_backward),
    flops=flops.block_attention_backward,
)
