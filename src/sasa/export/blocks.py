"""The stem's block attention from plain tensor operations, for run times that have no kernel of ours.

Everything before the softmax that is linear in the pixels is one product of a block's pixels with a constant matrix,
which an optimiser computes once from the weights: the relative logits, the values of each position, and the queries
times the key matrix. With the three channels of an image these products are small, and nothing is transposed.

Shapes: B batch, C image channels, H x W the image, N heads, D query channels and E value channels of a head, S the
block size, P = S * S pixels of a block (as queries Q), I x J blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.export.tiles import HIDDEN
from sasa.ops.arguments import BlockInputs, BlockOptions
from sasa.ops.precision import compute_dtype, without_autocast
from sasa.ops.reference import block_offsets, from_blocks


def block_attention(inputs: BlockInputs, options: BlockOptions) -> tuple[Tensor, Tensor]:
    """Eq. 7-8: output (B, N * E, H, W) and log-sum-exp (B, N, H, W); see `sasa.ops.block_attention`."""
    height, width = inputs.image.shape[2:]
    output_BIJNPE, logsumexp_BIJNP = attend(inputs, options)
    output_BIJPC = output_BIJNPE.transpose(3, 4).flatten(4)
    output = from_blocks(output_BIJPC, height, width, options.block_size)
    logsumexp = from_blocks(logsumexp_BIJNP.transpose(3, 4), height, width, options.block_size)
    return output.to(inputs.image.dtype), logsumexp


def block_attention_pooled(inputs: BlockInputs, sign: Tensor, options: BlockOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Extremes (B, N * E, I, J), their positions, and sums (2, N * E); see `sasa.ops.block_pooled`."""
    image = inputs.image
    toward_C = torch.where(sign < 0, -1.0, 1.0).to(compute_dtype(image))
    directed, _ = attend(_times(inputs, toward_C), options)  # constant weights times constant signs cost nothing
    inside_IJP = inside_blocks(image, options.block_size)
    wide = directed.double()
    if inside_IJP is not None:
        inside = inside_IJP[:, :, None, :, None]
        directed, wide = torch.where(inside, directed, HIDDEN), torch.where(inside, wide, 0.0)
    extreme = (directed.amax(4).flatten(3) * toward_C).permute(0, 3, 1, 2)
    position = directed.argmax(4).flatten(3).to(torch.uint8).permute(0, 3, 1, 2)
    sums = torch.stack([wide.sum((0, 1, 2, 4)).flatten() * toward_C, wide.square().sum((0, 1, 2, 4)).flatten()])
    return extreme.to(image.dtype), position, sums


def _times(inputs: BlockInputs, factor_C: Tensor) -> BlockInputs:
    """The same inputs with the values, and so the output, multiplied by a factor for each channel."""
    if inputs.value is not None:
        return inputs._replace(value=inputs.value * factor_C[:, None, None])
    assert inputs.w_value is not None
    return inputs._replace(w_value=inputs.w_value * factor_C[:, None])


def attend(inputs: BlockInputs, options: BlockOptions) -> tuple[Tensor, Tensor]:
    """Attention inside each block, also of partial ones: outputs (B, I, J, N, P, E), log-sum-exps (B, I, J, N, P)."""
    block_size, num_heads, scale = options
    dtype, device = compute_dtype(inputs.image), inputs.image.device
    image, w_query, w_key, w_value, rel_row, rel_col, value = (None if t is None else t.to(dtype) for t in inputs)
    assert image is not None
    assert w_query is not None
    with without_autocast(device):
        pixels_BIJPC = split_blocks(image, block_size)
        query_NDC = w_query.unflatten(0, (num_heads, -1)) * scale
        logits = pixels_BIJPC.new_zeros(1)
        if w_key is not None:
            product_NCC = w_key.unflatten(0, (num_heads, -1)).mT @ query_NDC
            query_BIJNPC = _by_position(pixels_BIJPC, product_NCC.expand(block_size**2, -1, -1, -1))
            # One product for the queries of all heads: small products cost more than their arithmetic.
            content = query_BIJNPC.flatten(3, 4) @ pixels_BIJPC.mT
            logits = content.unflatten(3, (num_heads, block_size**2))
        if rel_row is not None and rel_col is not None:
            rows, columns = block_offsets(block_size, device)
            rel_NQPD = torch.cat([rel_row[:, rows], rel_col[:, columns]], -1)
            logits = logits + _by_position(pixels_BIJPC, (rel_NQPD @ query_NDC[:, None]).transpose(0, 1))
        inside_IJP = inside_blocks(image, block_size)
        if inside_IJP is not None:
            logits = torch.where(inside_IJP[:, :, None, None], logits, HIDDEN)
        if value is None:
            assert w_value is not None
            values_BIJNPE = _by_position(pixels_BIJPC, w_value.unflatten(1, (num_heads, -1)))
        else:
            values_BIJNPE = split_blocks(value, block_size).unflatten(4, (num_heads, -1)).transpose(3, 4)
        return logits.softmax(-1) @ values_BIJNPE, logits.logsumexp(-1)


def _by_position(pixels_BIJPC: Tensor, weights_PNOC: Tensor) -> Tensor:
    """Multiply each pixel of a block with the matrices of its position: (B, I, J, N, P, O).

    As one product of a block's P * C numbers with a matrix whose other positions are 0.
    """
    positions = pixels_BIJPC.shape[3]
    own = torch.eye(positions, dtype=pixels_BIJPC.dtype, device=pixels_BIJPC.device)
    matrix = own[:, None, None, :, None] * weights_PNOC.permute(3, 1, 0, 2)  # (P, C, N, P, O)
    product = pixels_BIJPC.flatten(3) @ matrix.flatten(2).flatten(0, 1)
    return product.unflatten(3, matrix.shape[2:])


def split_blocks(map_BCHW: Tensor, block_size: int) -> Tensor:
    """(B, C, H, W) -> (B, I, J, P, C): the pixels of every block, row by row; zeros beyond the map."""
    batch, channels, height, width = map_BCHW.shape
    rows, columns = (_count(size, block_size) for size in (height, width))
    padded = F.pad(map_BCHW, (0, columns * block_size - width, 0, rows * block_size - height))
    blocks = padded.reshape(batch, channels, rows, block_size, columns, block_size)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)


def inside_blocks(image: Tensor, block_size: int) -> Tensor | None:
    """Whether each pixel of the blocks lies in the image, (I, J, P); None if all do."""
    height, width = image.shape[2:]
    if all(isinstance(size, int) and size % block_size == 0 for size in (height, width)):
        return None
    rows, columns = (
        (torch.arange(_count(size, block_size) * block_size, device=image.device) < size).unflatten(0, (-1, block_size))
        for size in (height, width)
    )
    return (rows[:, None, :, None] & columns[None, :, None]).flatten(2)


def _count(size: int, block_size: int) -> int:
    """Blocks along a side. Not by -(-size // block_size): ONNX rounds the quotient of a negative number towards 0."""
    return (size + block_size - 1) // block_size
