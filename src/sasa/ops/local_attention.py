"""`sasa.ops.local_attention`: check, choose, call; and the dispatcher op `sasa::local_attention` underneath.

The dispatcher op has a kernel per device where one exists and `eager` everywhere else, so exported and compiled
graphs hold the op and not the choice.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D channels of a head.
"""

import torch
from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops import eager, reference
from sasa.ops.backends import check_backend
from sasa.ops.checks import (
    check_heads,
    check_kernel_size,
    check_no_forward_mode,
    check_padding,
    check_relative,
    check_same,
)
from sasa.ops.gpu import local as gpu
from sasa.ops.precision import autocast_to, compute_dtype, empty_map, without_autocast


def local_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    rel_row: Tensor | None = None,
    rel_col: Tensor | None = None,
    *,
    kernel_size: int,
    num_heads: int,
    padding: str = "zeros",
    scale: float = 1.0,
    content: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Local self-attention with 2-D relative positions, Eq. 3 of the paper.

    For pixel (i, j) and head n, over the K x K window of positions (a, b) centred on it::

        logit_ab = scale * (q_ij . k_ab + q_ij . r_{a-i, b-j})
        y_ij     = sum over ab of softmax_ab(logit) v_ab
        q . r    = q[:D/2] . rel_row[a-i] + q[D/2:] . rel_col[b-j]

    Args:
        query: (B, C, H, W), C = N * D; floating point; any strides, any H, W >= 1, also smaller than the window.
        key: (B, C, H, W), or None with `content=False`.
        value: (B, C_value, H, W); C_value may differ from C.
        rel_row: (N, K, D / 2), the embedding of a - i; index 0 is offset -(K // 2). float32 or query's dtype.
        rel_col: (N, K, D / 2), the embedding of b - j. Both embeddings or neither.
        kernel_size: K, odd.
        num_heads: N; heads are contiguous groups of channels.
        padding: "zeros": positions outside the map have zero keys and values and take part in the softmax.
            "mask": they take no part.
        scale: factor of the logits; the paper has none.
        content: False leaves q.k out (Table 6 of the paper).
        backend: "auto", or "reference", "eager", "cpu" or "triton" for tests and comparison.

    Returns:
        (B, C_value, H, W) in query's dtype and layout. Arithmetic is in float32 or better.

    Raises:
        ArgumentError: (a ValueError) shapes, dtypes or options that do not fit, with both values.

    >>> query = key = value = torch.randn(1, 16, 5, 7)
    >>> sasa.ops.local_attention(query, key, value, kernel_size=3, num_heads=4).shape
    torch.Size([1, 16, 5, 7])
    """
    device = query.device
    query, key, value = autocast_to(device, query, key, value)  # pyright: ignore[reportAssignmentType]
    _check(query, key, value, rel_row, rel_col, kernel_size, num_heads, padding, content)
    check_backend(backend, query)
    if backend == "reference":
        return reference.local_attention(
            query, key, value, rel_row, rel_col,
            kernel_size=kernel_size, num_heads=num_heads, padding=padding, scale=scale,
        )[0]  # fmt: skip
    check_no_forward_mode({"query": query, "key": key, "value": value, "rel_row": rel_row, "rel_col": rel_col})
    arguments = (query, key, value, rel_row, rel_col, kernel_size, num_heads, padding, float(scale))
    if backend == "triton":
        _check_triton(query, value, num_heads)
    if backend == "eager" or (backend == "triton" and device.type == "cpu"):  # the latter in Triton's interpreter
        return _ByName.apply(backend, *arguments)
    with without_autocast(device):  # "cpu" and "triton" are what the dispatcher takes where they can run at all
        return torch.ops.sasa.local_attention(*arguments)[0]


def _check(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    rel_row: Tensor | None,
    rel_col: Tensor | None,
    kernel_size: int,
    num_heads: int,
    padding: str,
    content: bool,
) -> None:
    check_kernel_size(kernel_size)
    check_padding(padding)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor is not None and tensor.dim() != 4:
            raise ArgumentError(f"{name} must be (batch, channels, height, width), got {tuple(tensor.shape)}")
    if query.shape[2] < 1 or query.shape[3] < 1:
        raise ArgumentError(f"the map must have at least one pixel, got {tuple(query.shape)}")
    check_same({"query": query, "key": key, "value": value})
    relative = rel_row is not None or rel_col is not None
    if content and key is None:
        raise ArgumentError("key is None: give a key, or leave q.k out with content=False")
    if not content and key is not None:
        raise ArgumentError("content=False leaves q.k out: key must then be None")
    if not content and not relative:
        raise ArgumentError("content=False needs relative embeddings: without both, there is no logit at all")
    check_heads(query.shape[1], num_heads, "query channels", relative=relative)
    check_heads(value.shape[1], num_heads, "value channels", relative=False)
    if key is not None and key.shape != query.shape:
        raise ArgumentError(f"key {tuple(key.shape)} must have the shape of query {tuple(query.shape)}")
    expected = (query.shape[0], value.shape[1], *query.shape[2:])
    if tuple(value.shape) != expected:
        raise ArgumentError(
            f"value {tuple(value.shape)} must have the batch, height and width of query {tuple(query.shape)}"
        )
    check_relative(rel_row, rel_col, (num_heads, kernel_size, query.shape[1] // num_heads // 2), query)


def _check_triton(query: Tensor, value: Tensor, num_heads: int) -> None:
    reason = gpu.why_not(query, value, num_heads)
    if reason is not None:
        raise ArgumentError(f"backend 'triton' cannot run here: {reason}")


_BY_NAME = {"eager": eager, "triton": gpu}


class _ByName(torch.autograd.Function):
    """A back-end asked for by name: its functions, whatever kernel the dispatcher op would take."""

    @staticmethod
    def forward(ctx, backend, *arguments):
        output, logsumexp = _BY_NAME[backend].forward(*arguments)
        ctx.save_for_backward(*arguments[:5], logsumexp)
        ctx.backend, ctx.options = backend, arguments[5:]
        return output

    @staticmethod
    def backward(ctx, grad_output):  # pyright: ignore[reportIncompatibleMethodOverride]
        grads = _ByNameBackward.apply(ctx.backend, grad_output, *ctx.saved_tensors, *ctx.options)
        return None, *grads, None, None, None, None


class _ByNameBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend, *arguments):
        return _BY_NAME[backend].backward(*arguments)

    @staticmethod
    def backward(ctx, *grads):
        _no_second_derivative(ctx, *grads)


torch.library.define(
    "sasa::local_attention",
    "(Tensor query, Tensor? key, Tensor value, Tensor? rel_row, Tensor? rel_col, "
    "int kernel_size, int num_heads, str padding, float scale) -> (Tensor output, Tensor logsumexp)",
)
# Gradients of inputs that were None are empty tensors: a schema cannot return an optional tensor.
torch.library.define(
    "sasa::local_attention_backward",
    "(Tensor grad_output, Tensor query, Tensor? key, Tensor value, Tensor? rel_row, Tensor? rel_col, "
    "Tensor logsumexp, int kernel_size, int num_heads, str padding, float scale) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


torch.library.impl("sasa::local_attention", "CompositeExplicitAutograd", eager.forward)


torch.library.impl("sasa::local_attention", "CUDA", gpu.forward)


@torch.library.impl("sasa::local_attention_backward", "CompositeExplicitAutograd")
def _backward(grad_output, query, *rest):
    return _tensors(eager.backward(grad_output, query, *rest), query)


@torch.library.impl("sasa::local_attention_backward", "CUDA")
def _backward_cuda(grad_output, query, *rest):
    return _tensors(gpu.backward(grad_output, query, *rest), query)


def _tensors(grads: tuple[Tensor | None, ...], like: Tensor) -> tuple[Tensor, ...]:
    return tuple(like.new_empty(0) if grad is None else grad for grad in grads)


@torch.library.register_fake("sasa::local_attention")
def _fake(query, key, value, rel_row, rel_col, kernel_size, num_heads, padding, scale):
    batch, _, height, width = query.shape
    logsumexp = query.new_empty((batch, num_heads, height, width), dtype=compute_dtype(query))
    return empty_map(query, value.shape[1]), logsumexp


@torch.library.register_fake("sasa::local_attention_backward")
def _fake_backward(grad_output, query, key, value, rel_row, rel_col, *rest):
    maps = [query.new_empty(0) if m is None else empty_map(m, m.shape[1]) for m in (query, key, value)]
    rels = [query.new_empty(0) if r is None else r.new_empty(r.shape) for r in (rel_row, rel_col)]
    return *maps, *rels


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5], output[1])
    ctx.options = inputs[5:]
    ctx.mark_non_differentiable(output[1])


def _autograd(ctx, grad_output, _grad_logsumexp):
    *inputs, logsumexp = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
    grads = torch.ops.sasa.local_attention_backward(grad_output, *inputs, logsumexp, *ctx.options)
    return *(None if given is None else grad for given, grad in zip(inputs, grads, strict=True)), *[None] * 4


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError(
        'sasa::local_attention has no second derivative; backend="reference" is differentiable to any order'
    )


torch.library.register_autograd("sasa::local_attention", _autograd, setup_context=_setup_context)
torch.library.register_autograd("sasa::local_attention_backward", _no_second_derivative)
