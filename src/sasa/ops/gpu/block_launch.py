"""Block attention on CUDA: the tables that the kernels read, their launch, and the sums over programs after it.

Shapes: B images of H x W pixels, C image channels, N heads, D query and E value channels of a head, S the side of a
block, P its pixels and K the features of a logit (both padded, see `block_tile`), O = 2 S - 1 offsets, T programs of
a head, F = C + 2 O columns of a head's form: the channels, the row offsets, the column offsets.
"""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from sasa.ops.arguments import BlockBackward, BlockForward, BlockInputs
from sasa.ops.gpu import available
from sasa.ops.gpu.available import is_wide
from sasa.ops.gpu.block_backward import block_backward
from sasa.ops.gpu.block_forward import block_forward
from sasa.ops.gpu.block_tile import LOG2E
from sasa.ops.gpu.tuning import power_of_two
from sasa.ops.precision import empty_map, without_autocast

STAGES = 1  # loads ahead of their use cost registers that the backward kernel does not have
PROGRAMS = 512  # of each head, at most; the order of the sums depends on it, so it does not follow the GPU
WARPS = 4  # 8 for float32, which uses no tensor cores: half the registers for each thread


@dataclass(frozen=True)
class LaunchSizes:
    """Sizes that a launch and the sums after it share."""

    channels: int  # C
    heads: int  # N
    values: int  # E
    side: int  # S
    pixels: int  # P
    features: int  # K
    padded_values: int
    blocks_down: int
    groups_across: int
    groups: int  # of all images
    blocks: int  # G
    programs: int  # T
    warps: int

    @property
    def sizes(self) -> dict:
        """The constants of both kernels."""
        return {
            "C": self.channels, "E": self.values, "EP": self.padded_values, "G": self.blocks, "P": self.pixels,
            "S": self.side, "K": self.features,
        }  # fmt: skip


def padded(size: int) -> int:
    """The next power of two, and at least the 16 that a tensor core takes."""
    return max(16, power_of_two(size))


def launch_sizes(image: Tensor, value_channels: int, block_size: int, num_heads: int) -> LaunchSizes:
    """Divide the image into groups of blocks, and the groups into programs."""
    batch, channels, height, width = image.shape
    pixels = padded(block_size**2)
    half = image.dtype != torch.float32
    blocks = max(1, (128 if half else 64) // pixels)  # a warp multiplies 16 queries at a time
    down, across = -(-height // block_size), -(-width // block_size)
    groups_across = -(-across // blocks)
    groups = batch * down * groups_across
    values = value_channels // num_heads
    return LaunchSizes(
        channels, num_heads, values, block_size, pixels, padded(channels + 2 * block_size),
        padded(values), down, groups_across, groups, blocks, min(groups, PROGRAMS), WARPS if half else 2 * WARPS,
    )  # fmt: skip


def right_side(inputs: BlockInputs, of: LaunchSizes) -> Tensor:
    """(N, D, F): the right factor of the logits: the key matrix, then the row and the column embeddings.

    Terms that are switched off are zeros, so that the kernels compute one kind of logit.
    """
    _, w_query, w_key, _, rel_row, rel_col, _ = inputs
    channels, num_heads, offsets = of.channels, of.heads, 2 * of.side - 1
    head_dim = w_query.shape[0] // num_heads
    right = w_query.new_zeros((num_heads, head_dim, channels + 2 * offsets), dtype=torch.float32)
    if w_key is not None:
        right[:, :, :channels] = w_key.unflatten(0, (num_heads, head_dim))
    if rel_row is not None and rel_col is not None:
        right[:, : head_dim // 2, channels : channels + offsets] = rel_row.mT
        right[:, head_dim // 2 :, channels + offsets :] = rel_col.mT
    return right


def left_side(w_query: Tensor, num_heads: int, scale: float) -> Tensor:
    """scale * Wq, (N, D, C) in float32."""
    return w_query.float().unflatten(0, (num_heads, -1)) * scale


def precisions(image: Tensor) -> dict:
    """Return the precisions of the kernels' products: float32 is exact unless the user allowed TF32 in torch."""
    half = image.dtype != torch.float32
    # The newer of torch's two settings: it can be read whichever of them was set.
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return {"HALF": half, "PRECISION": "tf32" if allowed and not half else "ieee"}


def launch(kernel, of: LaunchSizes, image: Tensor, *arguments, **constants) -> None:
    """Run T programs for each head on the image's device, which may differ from the current one."""
    if of.groups == 0:
        return
    _, _, height, width = image.shape
    turns = -(-of.groups // of.programs)
    sizes = (of.heads, height, width, of.blocks_down, of.groups_across, of.groups, of.programs, turns)
    constants |= of.sizes | {"num_warps": of.warps, "num_stages": STAGES}
    # Triton 3.6's interpreter needs constant loop bounds; compiled kernels must not be recompiled for each value.
    constants["TURNS"] = turns if available.INTERPRETED else 0
    with torch.cuda.device(image.device) if image.is_cuda else contextlib.nullcontext():
        kernel[(of.programs * of.heads,)](*arguments, *sizes, **constants)


def strides(*maps: Tensor) -> list[int]:
    """Concatenate the strides of all maps."""
    return [stride for map_ in maps for stride in map_.stride()]


def forward(call: BlockForward) -> tuple[Tensor, Tensor]:
    """Eq. 7-8 with relative positions: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""
    inputs, (block_size, num_heads, scale) = call
    image, w_query, _, w_value, _, _, value = inputs
    of = launch_sizes(image, inputs.value_channels, block_size, num_heads)
    output = empty_map(image, of.heads * of.values)
    logsumexp = image.new_empty((image.shape[0], num_heads, *image.shape[2:]), dtype=torch.float32)
    with without_autocast(image.device):
        right = right_side(inputs, of)
        forms = left_side(w_query, num_heads, scale * LOG2E.value).mT @ right
        matrices = image if w_value is None else w_value.contiguous()  # a placeholder: the kernel does not read it
        values = image if value is None else value
        launch(
            block_forward, of, image,
            image, forms, matrices, values, output, logsumexp, *strides(image, values, output),
            VALUE_MAP=value is not None, **precisions(image),
        )  # fmt: skip
    return output, logsumexp


def backward(call: BlockBackward) -> tuple[Tensor | None, ...]:
    """Gradients for image (if asked for), w_query, w_key, w_value, rel_row, rel_col, value (None for None)."""
    grad_output, inputs, logsumexp, options, image_gradient = call
    image, w_query, _, w_value, _, _, value = inputs
    block_size, num_heads, scale = options
    of = launch_sizes(image, inputs.value_channels, block_size, num_heads)
    if is_wide(grad_output):  # the user chose its layout; that of the output fits, as `why_not` has checked
        grad_output = empty_map(image, of.heads * of.values).copy_(grad_output)
    parts = {"device": image.device, "dtype": torch.float32}
    part_forms = torch.empty((of.programs, of.heads, of.channels, of.pixels, of.features), **parts)
    # Gradients that are not needed are not written.
    shape = (of.programs, of.heads, of.channels, of.pixels, of.padded_values)
    part_values = torch.empty(shape if value is None else (1,), **parts)
    part_image = torch.empty((image.shape[0], of.heads, *image.shape[1:]) if image_gradient else (1,), **parts)
    grad_value = None if value is None else empty_map(value, value.shape[1])
    with without_autocast(image.device):
        right = right_side(inputs, of)
        forms = left_side(w_query, num_heads, scale * LOG2E.value).mT @ right
        matrices = image if w_value is None else w_value.contiguous()
        values, grad_values = (image, image) if value is None or grad_value is None else (value, grad_value)
        precision = precisions(image)
        launch(
            block_backward, of, image,
            grad_output, image, forms, matrices, values, logsumexp.contiguous(), part_forms, part_values, part_image,
            grad_values,
            *strides(grad_output, image, values, grad_values),
            WARPS=of.warps, VALUE_MAP=value is not None, IMAGE_GRADIENT=image_gradient, **precision,
            GRADIENT_PRECISION="tf32" if precision["HALF"] else precision["PRECISION"],
        )  # fmt: skip
        grads = _of_forms(part_forms.sum(0), of, right, inputs, scale)
        grad_w_value = None if w_value is None else _of_values(part_values.sum(0), of, w_value)
        grad_image = None if not image_gradient else _of_image(part_image, image)
    grad_w_query, grad_w_key, grad_row, grad_col = grads
    return grad_image, grad_w_query, grad_w_key, grad_w_value, grad_row, grad_col, grad_value


def _of_forms(
    sums_NCPK: Tensor, of: LaunchSizes, right_NDF: Tensor, inputs: BlockInputs, scale: float
) -> tuple[Tensor | None, ...]:
    """Convert gradients of the forms to gradients of the matrices and embeddings that they were computed from."""
    _, w_query, w_key, _, rel_row, rel_col, _ = inputs
    channels, side, offsets = of.channels, of.side, 2 * of.side - 1
    grad_NCPK = sums_NCPK[:, :, : side**2, : channels + 2 * side]
    content, rows, cols = grad_NCPK.split([channels, side, side], dim=3)
    position = torch.arange(side**2, device=sums_NCPK.device)
    offset = torch.arange(offsets, device=sums_NCPK.device)
    parts = [content.sum(2)]
    for grad, own in ((rows, position // side), (cols, position % side)):
        # The offset of feature k at pixel p, one-hot; a product adds up the pairs that share an offset.
        seen_PK = torch.arange(side, device=own.device)[None, :] - own[:, None] + side - 1
        parts.append(torch.einsum("ncpk,pko->nco", grad, (seen_PK[..., None] == offset).to(grad.dtype)))
    grad_NCF = torch.cat(parts, dim=2)
    left_NDC = left_side(w_query, of.heads, scale)
    grad_w_query = torch.einsum("ndf,ncf->ndc", right_NDF, grad_NCF).flatten(0, 1) * scale
    grad_NDF = left_NDC @ grad_NCF
    half = grad_NDF.shape[1] // 2
    grad_w_key = grad_NDF[:, :, :channels].flatten(0, 1)
    grad_row = grad_NDF[:, :half, channels : channels + offsets].mT
    grad_col = grad_NDF[:, half:, channels + offsets :].mT
    pairs = ((grad_w_query, w_query), (grad_w_key, w_key), (grad_row, rel_row), (grad_col, rel_col))
    return tuple(None if like is None else grad.to(like.dtype).contiguous() for grad, like in pairs)


def _of_values(sums_NCPE: Tensor, of: LaunchSizes, w_value: Tensor) -> Tensor:
    """Convert (N, C, P, E), padded, to the layout of w_value, (P, N * E, C)."""
    grad = sums_NCPE[:, :, : of.side**2, : of.values].permute(2, 0, 3, 1)
    return grad.flatten(1, 2).to(w_value.dtype).contiguous()


def _of_image(part_BNCHW: Tensor, image: Tensor) -> Tensor:
    grad = empty_map(image, image.shape[1])
    return grad.copy_(part_BNCHW.sum(1)) if image.shape[0] else grad
