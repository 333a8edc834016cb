"""`sasa.ops.block_attention`: check, choose, call; and the dispatcher op `sasa::block_attention` underneath.

It works on pixels and weights, so that a kernel need not write the full-resolution queries, keys and values.

Shapes: B batch, C image channels, H x W the picture, N heads, D query channels and E value channels of a head,
S the block size, P = S * S the pixels of a block.
"""

from types import ModuleType

import torch
from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops import eager_block, reference
from sasa.ops.backends import check_backend
from sasa.ops.checks import check_heads, check_no_forward_mode, check_relative, check_same
from sasa.ops.gpu import available
from sasa.ops.precision import autocast_to, compute_dtype, empty_map, without_autocast


def block_attention(
    image: Tensor,
    w_query: Tensor,
    w_key: Tensor | None,
    w_value: Tensor | None,
    rel_row: Tensor | None = None,
    rel_col: Tensor | None = None,
    *,
    block_size: int,
    num_heads: int,
    value: Tensor | None = None,
    scale: float = 1.0,
    content: bool = True,
    backend: str = "auto",
) -> Tensor:
    """The stem's attention inside each non-overlapping block, Section 3.2 and Eq. 7-8 with relative positions.

    For pixels p and s of one block and head n::

        logit_ps = scale * (q_p . k_s + q_p . r_{s - p}),   q = w_query x,   k = w_key x
        y_p      = sum over s of softmax_s(logit) w_value[s] x_s

    Args:
        image: (B, C, H, W). Sides need not be multiples of the block: pixels beyond the picture are no keys.
        w_query: (N * D, C).
        w_key: (N * D, C), or None with `content=False`.
        w_value: (P, N * E, C), the value matrix of each position of the block, row by row, already mixed
            (Eq. 8-9: the mixture depends on nothing but the position); None where `value` is given.
        rel_row: (N, 2 * S - 1, D / 2), the embedding of the row offset; index 0 is offset -(S - 1).
        rel_col: (N, 2 * S - 1, D / 2), of the column offset. Both or neither; float32 or image's dtype.
        block_size: S.
        num_heads: N.
        value: (B, N * E, H, W), values as a map in place of w_value (Table 7: values by a spatial convolution).
        scale: factor of the logits.
        content: False leaves q.k out.
        backend: "auto", or "reference", "eager", "cpu" or "triton" for tests and comparison.

    Returns:
        (B, N * E, H, W) in image's dtype and layout.

    Raises:
        ArgumentError: (a ValueError) shapes, dtypes or options that do not fit, with both values.

    >>> image, w = torch.randn(1, 3, 8, 6), torch.randn(8, 3)
    >>> sasa.ops.block_attention(image, w, w, w.expand(16, 8, 3), block_size=4, num_heads=2).shape
    torch.Size([1, 8, 8, 6])
    """
    device = image.device
    image, w_query, w_key, w_value, value = autocast_to(device, image, w_query, w_key, w_value, value)  # pyright: ignore
    _check(image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, content)
    check_backend(backend, image)
    tensors = (image, w_query, w_key, w_value, rel_row, rel_col, value)
    if backend == "reference":
        return reference.block_attention(*tensors, block_size=block_size, num_heads=num_heads, scale=scale)[0]
    names = ("image", "w_query", "w_key", "w_value", "rel_row", "rel_col", "value")
    check_no_forward_mode(dict(zip(names, tensors, strict=True)))
    if backend in ("eager", "triton"):
        implementation, reason = eager_block, None
        if backend == "triton":
            implementation, reason = _kernels_for(image, w_value, value, block_size, num_heads)
        if reason is not None:
            raise ArgumentError(f"backend 'triton' cannot run here: {reason}")
        return _ByName.apply(implementation, *tensors, block_size, num_heads, float(scale))
    with without_autocast(device):  # "cpu" is what the dispatcher takes for CPU tensors where it can run at all
        return torch.ops.sasa.block_attention(*tensors, block_size, num_heads, float(scale))[0]


def _check(
    image: Tensor,
    w_query: Tensor,
    w_key: Tensor | None,
    w_value: Tensor | None,
    rel_row: Tensor | None,
    rel_col: Tensor | None,
    value: Tensor | None,
    block_size: int,
    num_heads: int,
    content: bool,
) -> None:
    if not isinstance(block_size, int) or block_size < 1:
        raise ArgumentError(f"block_size must be a positive integer, got {block_size!r}")
    if image.dim() != 4 or image.shape[2] < 1 or image.shape[3] < 1:
        raise ArgumentError(f"image must be (batch, channels, height, width), got {tuple(image.shape)}")
    check_same({"image": image, "w_query": w_query, "w_key": w_key, "w_value": w_value, "value": value})
    channels = image.shape[1]
    relative = rel_row is not None or rel_col is not None
    if content == (w_key is None):
        raise ArgumentError("w_key goes with content=True: give both, or leave q.k out with None and content=False")
    if not content and not relative:
        raise ArgumentError("content=False needs relative embeddings: without both, there is no logit at all")
    for name, weight in (("w_query", w_query), ("w_key", w_key)):
        if weight is not None and (weight.dim() != 2 or tuple(weight.shape) != (w_query.shape[0], channels)):
            expected = (w_query.shape[0], channels)
            raise ArgumentError(f"{name} {tuple(weight.shape)} must be (out channels, image channels) = {expected}")
    check_heads(w_query.shape[0], num_heads, "query channels", relative=relative)
    if (w_value is None) == (value is None):
        raise ArgumentError("give the values once: w_value (a matrix for each position) or value (a map)")
    if w_value is not None:
        expected = (block_size**2, w_value.shape[-2] if w_value.dim() == 3 else -1, channels)
        if tuple(w_value.shape) != expected:
            raise ArgumentError(
                f"w_value {tuple(w_value.shape)} must be (block_size ** 2 = {block_size**2}, out channels, "
                f"image channels = {channels})"
            )
        check_heads(w_value.shape[1], num_heads, "value channels", relative=False)
    if value is not None:
        expected = (image.shape[0], *image.shape[2:])
        if value.dim() != 4 or (value.shape[0], *value.shape[2:]) != expected:
            raise ArgumentError(
                f"value {tuple(value.shape)} must have the batch, height and width of image {tuple(image.shape)}"
            )
        check_heads(value.shape[1], num_heads, "value channels", relative=False)
    head_dim = w_query.shape[0] // num_heads
    check_relative(rel_row, rel_col, (num_heads, 2 * block_size - 1, head_dim // 2), image)


class _ByName(torch.autograd.Function):
    """backend="eager" or "triton" asked for by name: the same functions, whatever the dispatcher op would take."""

    @staticmethod
    def forward(ctx, implementation, *arguments):
        output, logsumexp = implementation.forward(*arguments)
        ctx.save_for_backward(*arguments[:7], logsumexp)
        ctx.options = arguments[7:]
        ctx.implementation = implementation
        return output

    @staticmethod
    def backward(ctx, grad_output):  # pyright: ignore[reportIncompatibleMethodOverride]
        options = (*ctx.options, ctx.needs_input_grad[1])
        grads = _ByNameBackward.apply(ctx.implementation, grad_output, *ctx.saved_tensors, *options)
        return None, *grads, None, None, None


class _ByNameBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, implementation, *arguments):
        return implementation.backward(*arguments)

    @staticmethod
    def backward(ctx, *grads):
        _no_second_derivative(ctx, *grads)


def _kernels_for(
    image: Tensor, w_value: Tensor | None, value: Tensor | None, block_size: int, num_heads: int
) -> tuple[ModuleType | None, str | None]:
    """The Triton kernels where they can run on these tensors, else None and the sentence that says why not."""
    reason = available.why_not(image)
    if reason is not None:
        return None, reason
    from sasa.ops.gpu import block_launch  # Triton takes a second to import: only where there is a GPU

    channels = eager_block.value_channels(w_value, value)
    reason = block_launch.why_not(image, channels, block_size, num_heads, value)
    return (None, reason) if reason else (block_launch, None)


torch.library.define(
    "sasa::block_attention",
    "(Tensor image, Tensor w_query, Tensor? w_key, Tensor? w_value, Tensor? rel_row, Tensor? rel_col, "
    "Tensor? value, int block_size, int num_heads, float scale) -> (Tensor output, Tensor logsumexp)",
)
# Gradients of inputs that were None, or not asked for, are empty tensors: a schema cannot return an optional one.
torch.library.define(
    "sasa::block_attention_backward",
    "(Tensor grad_output, Tensor image, Tensor w_query, Tensor? w_key, Tensor? w_value, Tensor? rel_row, "
    "Tensor? rel_col, Tensor? value, Tensor logsumexp, int block_size, int num_heads, "
    "float scale, bool image_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


torch.library.impl("sasa::block_attention", "CompositeExplicitAutograd", eager_block.forward)


@torch.library.impl("sasa::block_attention_backward", "CompositeExplicitAutograd")
def _backward(grad_output, image, *rest):
    return _without_none(eager_block.backward(grad_output, image, *rest), image)


def _cuda(image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale):
    kernels = _kernels_for(image, w_value, value, block_size, num_heads)[0] or eager_block
    tensors = (image, w_query, w_key, w_value, rel_row, rel_col, value)
    return kernels.forward(*tensors, block_size, num_heads, scale)


def _cuda_backward(grad_output, image, *rest):
    _w_query, _w_key, w_value, _rel_row, _rel_col, value, _logsumexp, block_size, num_heads, *_ = rest
    kernels = _kernels_for(image, w_value, value, block_size, num_heads)[0] or eager_block
    return _without_none(kernels.backward(grad_output, image, *rest), image)


def _without_none(grads: tuple[Tensor | None, ...], image: Tensor) -> tuple[Tensor, ...]:
    return tuple(image.new_empty(0) if grad is None else grad for grad in grads)


# Not as decorators, which would leave None under these names.
torch.library.impl("sasa::block_attention", "CUDA", _cuda)
torch.library.impl("sasa::block_attention_backward", "CUDA", _cuda_backward)


@torch.library.register_fake("sasa::block_attention")
def _fake(image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale):
    batch, _, height, width = image.shape
    logsumexp = image.new_empty((batch, num_heads, height, width), dtype=compute_dtype(image))
    return empty_map(image, eager_block.value_channels(w_value, value)), logsumexp


@torch.library.register_fake("sasa::block_attention_backward")
def _fake_backward(grad_output, image, *rest):
    *weights, value, _logsumexp, _block_size, _num_heads, _scale, image_gradient = rest
    maps = [m if given else None for m, given in ((image, image_gradient), (value, value is not None))]
    grad_image, grad_value = (image.new_empty(0) if m is None else empty_map(m, m.shape[1]) for m in maps)
    grads = [image.new_empty(0) if w is None else w.new_empty(w.shape) for w in weights]
    return grad_image, *grads, grad_value


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:7], output[1])
    ctx.options = inputs[7:]
    ctx.mark_non_differentiable(output[1])


def _autograd(ctx, grad_output, _grad_logsumexp):
    saved = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
    wanted = [tensor is not None for tensor in saved[:7]]
    wanted[0] = ctx.needs_input_grad[0]
    grads = torch.ops.sasa.block_attention_backward(grad_output, *saved, *ctx.options, wanted[0])
    return *(grad if want else None for want, grad in zip(wanted, grads, strict=True)), None, None, None


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError(
        'sasa::block_attention has no second derivative; backend="reference" is differentiable to any order'
    )


torch.library.register_autograd("sasa::block_attention", _autograd, setup_context=_setup_context)
torch.library.register_autograd("sasa::block_attention_backward", _no_second_derivative)
