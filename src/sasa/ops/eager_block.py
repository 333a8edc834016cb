"""The stem's block attention in plain torch, forward and backward, one strip of blocks at a time.

Blocks do not overlap, so strips of whole block rows are independent: there is no halo, and only the gradients of the
weights are summed over strips.

Shapes: B images, I x J blocks, P = S query and key pixels of a block, C image channels, N heads, D query and key
channels of a head, E value channels of a head.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sasa.ops.arguments import BlockBackward, BlockForward, BlockInputs, BlockOptions
from sasa.ops.precision import compute_dtype, empty_map, without_autocast
from sasa.ops.reference import block_offsets, from_blocks, to_blocks

STRIP_PIXELS = {"cpu": 2**14, "cuda": 2**20}  # on a CPU a strip's queries, keys and values stay in cache


def strips(image: Tensor, block_size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Slices (images, all channels, rows) that cover the batch in whole rows of blocks."""
    batch, _, height, width = image.shape
    budget = STRIP_PIXELS.get(image.device.type, STRIP_PIXELS["cpu"])
    rows = max(1, budget // max(1, width * block_size)) * block_size
    images = max(1, budget // max(1, width * height)) if rows >= height else 1
    for first in range(0, batch, images):
        for top in range(0, height, rows):
            yield slice(first, first + images), slice(None), slice(top, top + rows)


class Block:
    """The weights in compute dtype, and the operations that forward and backward share."""

    def __init__(self, inputs: BlockInputs, options: BlockOptions) -> None:
        _, w_query, w_key, w_value, rel_row, rel_col, _ = inputs
        self.block_size, self.num_heads, self.scale = block_size, _, scale = options
        dtype = compute_dtype(w_query)
        self.w_query = w_query.to(dtype) * scale
        self.w_key = None if w_key is None else w_key.to(dtype)
        self.w_value = None if w_value is None else w_value.to(dtype)
        self.rows, self.cols = block_offsets(block_size, w_query.device)
        self.relative_NPSD = None
        if rel_row is not None and rel_col is not None:
            r = [rel_row.to(dtype)[:, self.rows], rel_col.to(dtype)[:, self.cols]]
            self.relative_NPSD = torch.cat(r, dim=-1)

    def heads(self, pixels_BIJPC: Tensor) -> Tensor:
        """(B, I, J, P, N * D) -> (B, I, J, N, P, D)."""
        return pixels_BIJPC.unflatten(-1, (self.num_heads, -1)).transpose(3, 4)

    def merge(self, heads_BIJNPD: Tensor) -> Tensor:
        """The inverse of `heads`."""
        return heads_BIJNPD.transpose(3, 4).flatten(4, 5)

    def project(self, part: Tensor) -> "Projected":
        """Queries and keys of a strip (B, C, rows, W) in compute dtype."""
        pixels = to_blocks(part, self.block_size)
        query = self.heads(pixels @ self.w_query.T)
        key = None if self.w_key is None else self.heads(pixels @ self.w_key.T)
        return Projected(pixels, query, key, self._beyond(part))

    def _beyond(self, image: Tensor) -> Tensor | None:
        if image.shape[2] % self.block_size == 0 and image.shape[3] % self.block_size == 0:
            return None
        return to_blocks(torch.ones_like(image[:1, :1]), self.block_size)[..., 0] == 0

    def logits(self, strip: "Projected") -> Tensor:
        """(B, I, J, N, P, S); -inf for key pixels beyond the image, otherwise 0 for query pixels beyond it."""
        _, query, key, beyond = strip
        logits = query.new_zeros((*query.shape[:-1], query.shape[-2])) if key is None else query @ key.mT
        if self.relative_NPSD is not None:
            logits = logits + torch.einsum("bijnpd,npsd->bijnps", query, self.relative_NPSD)
        if beyond is not None:
            logits = logits.masked_fill(beyond[:, :, :, None, :, None], 0.0)
            logits = logits.masked_fill(beyond[:, :, :, None, None, :], float("-inf"))
        return logits

    def values(self, strip: "Projected", value: Tensor | None) -> Tensor:
        """(B, I, J, N, S, E): the value matrix of each position times its pixel, or the map; 0 beyond the image."""
        if value is not None:
            return self.heads(to_blocks(value.to(strip.pixels.dtype), self.block_size))
        assert self.w_value is not None
        values = torch.einsum("bijsc,sec->bijse", strip.pixels, self.w_value)
        return self.heads(values if strip.beyond is None else values.masked_fill(strip.beyond[..., None], 0.0))


class Projected(NamedTuple):
    """A strip of blocks with its queries and keys."""

    pixels: Tensor  # (B, I, J, P, C)
    query: Tensor  # (B, I, J, N, P, D), scaled
    key: Tensor | None  # (B, I, J, N, S, D)
    beyond: Tensor | None  # (1, I, J, P), whether a pixel of a partial block lies beyond the image; None without any


def forward(call: BlockForward) -> tuple[Tensor, Tensor]:
    """Eq. 7-8 with relative positions: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""
    inputs, options = call
    image, value, block_size = inputs.image, inputs.value, options.block_size
    block = Block(inputs, options)
    output = empty_map(image, inputs.value_channels)
    logsumexp = image.new_empty((image.shape[0], options.num_heads, *image.shape[2:]), dtype=compute_dtype(image))
    with without_autocast(image.device):
        for strip in strips(image, block_size):
            part = image[strip].to(logsumexp.dtype)
            size = (part.shape[2], part.shape[3], block_size)
            projected = block.project(part)
            logits = block.logits(projected)
            total = logits.logsumexp(-1, keepdim=True)
            weights = logits.sub_(total).exp_()
            mixed = weights @ block.values(projected, None if value is None else value[strip])
            output[strip] = from_blocks(block.merge(mixed), *size).to(output.dtype)
            logsumexp[strip] = from_blocks(block.merge(total), *size)
    return output, logsumexp


def backward(call: BlockBackward) -> tuple[Tensor | None, ...]:
    """Gradients for image (if needed), w_query, w_key, w_value, rel_row, rel_col, value (None for None).

    Those of maps have the maps' layout, those of weights are contiguous. The output is not needed: sum(dy y) of a
    block costs as little from the weights, without the output's rounding in half precision.
    """
    image, w_query, w_key, w_value, rel_row, rel_col, value = call.inputs
    block_size, logsumexp = call.options.block_size, call.logsumexp
    block = Block(call.inputs, call.options)
    grad_image = empty_map(image, image.shape[1]) if call.image_gradient else None
    grad_value = None if value is None else empty_map(value, value.shape[1])
    grad_w = [
        None if w is None else torch.zeros_like(w, memory_format=torch.contiguous_format)
        for w in (block.w_query, block.w_key, block.w_value)
    ]
    grad_relative = None if block.relative_NPSD is None else torch.zeros_like(block.relative_NPSD)
    with without_autocast(image.device):
        for strip in strips(image, block_size):
            part = image[strip].to(logsumexp.dtype)
            size = (part.shape[2], part.shape[3], block_size)
            pixels, query, key, beyond = projected = block.project(part)
            total = block.heads(to_blocks(logsumexp[strip], block_size))
            weights = block.logits(projected).sub_(total).exp_()
            grad = block.heads(to_blocks(call.grad_output[strip].to(part.dtype), block_size))
            grad_values = block.merge(weights.mT @ grad)
            values = block.values(projected, None if value is None else value[strip])
            grad_logits = (grad @ values.mT).mul_(weights)
            grad_logits.addcmul_(weights, grad_logits.sum(-1, keepdim=True), value=-1)
            if beyond is not None:  # masked, so that no NaN comes from there
                grad_values = grad_values.masked_fill(beyond[..., None], 0.0)
                pairs = beyond[:, :, :, None, :, None] | beyond[:, :, :, None, None, :]
                grad_logits = grad_logits.masked_fill(pairs, 0.0)

            grad_query = torch.zeros_like(query)
            grad_key = None
            if key is not None:
                grad_query = grad_logits @ key
                grad_key = block.merge(grad_logits.mT @ query)
                _add(grad_w[1], grad_key.flatten(0, 3).T @ pixels.flatten(0, 3))
            if block.relative_NPSD is not None:
                grad_query = grad_query + torch.einsum("bijnps,npsd->bijnpd", grad_logits, block.relative_NPSD)
                _add(grad_relative, torch.einsum("bijnps,bijnpd->npsd", grad_logits, query))
            grad_query = block.merge(grad_query)
            _add(grad_w[0], grad_query.flatten(0, 3).T @ pixels.flatten(0, 3))
            if grad_value is not None:
                grad_value[strip] = from_blocks(grad_values, *size).to(grad_value.dtype)
            else:
                _add(grad_w[2], torch.einsum("bijse,bijsc->sec", grad_values, pixels))
            if grad_image is not None:
                grad_pixels = grad_query @ block.w_query
                if grad_key is not None and block.w_key is not None:
                    grad_pixels = grad_pixels + grad_key @ block.w_key
                if block.w_value is not None:
                    grad_pixels = grad_pixels + torch.einsum("bijse,sec->bijsc", grad_values, block.w_value)
                grad_image[strip] = from_blocks(grad_pixels, *size).to(grad_image.dtype)
        grad_row, grad_col = relative_gradients(block, grad_relative, rel_row, rel_col)

    weights_in = (w_query, w_key, w_value)
    assert grad_w[0] is not None
    grad_w[0] *= block.scale
    grads = [None if g is None or w is None else g.to(w.dtype) for g, w in zip(grad_w, weights_in, strict=True)]
    return grad_image, *grads, grad_row, grad_col, grad_value


def _add(total: Tensor | None, part: Tensor) -> None:
    assert total is not None
    total += part


def relative_gradients(
    block: Block, grad_NPSD: Tensor | None, rel_row: Tensor | None, rel_col: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Sum the gradient of r over the pairs of pixels that share an offset."""
    if grad_NPSD is None or rel_row is None or rel_col is None:
        return None, None
    grads = []
    for rel, index, part in zip((rel_row, rel_col), (block.rows, block.cols), grad_NPSD.chunk(2, dim=-1), strict=True):
        # A product with one-hot vectors would spread a NaN to all offsets.
        of_offsets = [part.where(index[..., None] == o, 0.0).sum((1, 2)) for o in range(rel.shape[1])]
        grads.append(torch.stack(of_offsets, 1).to(rel.dtype))
    return grads[0], grads[1]
