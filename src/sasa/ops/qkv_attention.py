"""`sasa::qkv_attention`: local attention on the output of one projection, as `LocalAttention2d` has it.

q, k and v lie one after the other along the channels of one map, and so do their gradients: nothing is split, copied
or put together around the kernels. For inference there is a second operator that also does what follows attention.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import eager
from sasa.ops.checks import check_no_forward_mode
from sasa.ops.gpu import local as gpu
from sasa.ops.local_attention import local_attention
from sasa.ops.precision import autocast_to, compute_dtype, empty_map, without_autocast


def qkv_attention(
    qkv: Tensor,
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
    """`local_attention` of the thirds of `qkv`: Eq. 3 of the paper.

    Args:
        qkv: (B, 3 * C, H, W): queries, keys and values; (B, 2 * C, H, W), without keys, with `content=False`.
        rel_row: (N, K, D / 2).
        rel_col: (N, K, D / 2).
        kernel_size: K.
        num_heads: N.
        padding: "zeros" or "mask".
        scale: factor of the logits.
        content: False leaves q.k out.
        backend: as for `local_attention`.

    Returns:
        (B, C, H, W).
    """
    options = {"kernel_size": kernel_size, "num_heads": num_heads, "padding": padding, "scale": scale}
    query, key, value = split(qkv, content)
    if backend != "auto":
        return local_attention(query, key, value, rel_row, rel_col, **options, content=content, backend=backend)
    check_no_forward_mode({"qkv": qkv, "rel_row": rel_row, "rel_col": rel_col})
    (cast,) = autocast_to(qkv.device, qkv)
    with without_autocast(qkv.device):
        return torch.ops.sasa.qkv_attention(
            cast, rel_row, rel_col, kernel_size, num_heads, content, padding, float(scale)
        )[0]


def qkv_attention_inference(
    qkv: Tensor,
    rel_row: Tensor | None,
    rel_col: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    *,
    relu: bool,
    pool: int,
    kernel_size: int,
    num_heads: int,
    padding: str,
    scale: float,
    content: bool,
) -> Tensor:
    """`qkv_attention`, the mean of pool x pool pixels (fewer at an odd border), y * gain + shift, and ReLU.

    Args:
        qkv: as for `qkv_attention`, and so are the others that it has.
        rel_row: see there.
        rel_col: see there.
        gain: (C,) in float32 (float64 with qkv), or None for 1.
        shift: the same, or None for 0.
        relu: whether negative results become 0.
        pool: 1 or 2.
        kernel_size: K.
        num_heads: N.
        padding: "zeros" or "mask".
        scale: factor of the logits.
        content: False leaves q.k out.

    Returns:
        (B, C, ceil(H / pool), ceil(W / pool)). Not differentiable.
    """
    check_no_forward_mode({"qkv": qkv, "rel_row": rel_row, "rel_col": rel_col})
    (qkv,) = autocast_to(qkv.device, qkv)  # pyright: ignore[reportAssignmentType]
    with without_autocast(qkv.device):
        return torch.ops.sasa.qkv_attention_inference(
            qkv, rel_row, rel_col, gain, shift, relu, pool, kernel_size, num_heads, content, padding, float(scale)
        )


def split(qkv: Tensor, content: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """q, k (None without content) and v: views, (B, C, H, W) each."""
    if content:
        query, key, value = qkv.chunk(3, dim=1)
        return query, key, value
    query, value = qkv.chunk(2, dim=1)
    return query, None, value


torch.library.define(
    "sasa::qkv_attention",
    "(Tensor qkv, Tensor? rel_row, Tensor? rel_col, int kernel_size, int num_heads, bool content, str padding, "
    "float scale) -> (Tensor output, Tensor logsumexp)",
)
torch.library.define(
    "sasa::qkv_attention_backward",
    "(Tensor grad_output, Tensor qkv, Tensor? rel_row, Tensor? rel_col, Tensor logsumexp, int kernel_size, "
    "int num_heads, bool content, str padding, float scale) -> (Tensor, Tensor, Tensor)",
)
# For inference: y * gain + shift for each channel (a batch norm), ReLU, and the mean of pool x pool pixels.
torch.library.define(
    "sasa::qkv_attention_inference",
    "(Tensor qkv, Tensor? rel_row, Tensor? rel_col, Tensor? gain, Tensor? shift, bool relu, int pool, "
    "int kernel_size, int num_heads, bool content, str padding, float scale) -> Tensor",
)


def _forward(qkv, rel_row, rel_col, kernel_size, num_heads, content, padding, scale):
    return eager.forward(*split(qkv, content), rel_row, rel_col, kernel_size, num_heads, padding, scale)


def _backward(grad_output, qkv, rel_row, rel_col, logsumexp, kernel_size, num_heads, content, padding, scale):
    maps = split(qkv, content)
    *grads, grad_row, grad_col = eager.backward(
        grad_output, *maps, rel_row, rel_col, logsumexp, kernel_size, num_heads, padding, scale
    )
    grad_qkv = empty_map(qkv, qkv.shape[1])
    given = [grad for grad in grads if grad is not None]
    for part, grad in zip(grad_qkv.chunk(len(given), dim=1), given, strict=True):
        part.copy_(grad)
    return grad_qkv, *(qkv.new_empty(0) if grad is None else grad for grad in (grad_row, grad_col))


def _forward_cuda(qkv, rel_row, rel_col, kernel_size, num_heads, content, padding, scale):
    return gpu.forward(*split(qkv, content), rel_row, rel_col, kernel_size, num_heads, padding, scale)


def _backward_cuda(grad_output, qkv, rel_row, rel_col, logsumexp, kernel_size, num_heads, content, padding, scale):
    grad_qkv = empty_map(qkv, qkv.shape[1])
    *_, grad_row, grad_col = gpu.backward_into(
        split(grad_qkv, content),
        grad_output, *split(qkv, content), rel_row, rel_col, logsumexp, kernel_size, num_heads, padding, scale,
    )  # fmt: skip
    return grad_qkv, *(qkv.new_empty(0) if grad is None else grad for grad in (grad_row, grad_col))


def _inference(qkv, rel_row, rel_col, gain, shift, relu, pool, *options):
    output, _ = _forward(qkv, rel_row, rel_col, *options)
    return _epilogue(output, qkv, gain, shift, relu, pool)


def _inference_cuda(qkv, rel_row, rel_col, gain, shift, relu, pool, *options):
    output, _ = _forward_cuda(qkv, rel_row, rel_col, *options)
    return _epilogue(output, qkv, gain, shift, relu, pool)


def _epilogue(output, qkv, gain, shift, relu, pool):
    """What follows attention in a network for inference: pooling, a folded batch norm, ReLU."""
    y = output.to(compute_dtype(qkv))
    if pool > 1:
        y = F.avg_pool2d(y, pool, ceil_mode=True, count_include_pad=False)
    if gain is not None:
        y = y * gain[:, None, None]
    if shift is not None:
        y = y + shift[:, None, None]
    result = empty_map(qkv, y.shape[1], size=(y.shape[2], y.shape[3]))
    return result.copy_(y.relu() if relu else y)


# Not as decorators, which would leave None under these names.
torch.library.impl("sasa::qkv_attention", "CompositeExplicitAutograd", _forward)
torch.library.impl("sasa::qkv_attention_backward", "CompositeExplicitAutograd", _backward)
torch.library.impl("sasa::qkv_attention_inference", "CompositeExplicitAutograd", _inference)
torch.library.impl("sasa::qkv_attention", "CUDA", _forward_cuda)
torch.library.impl("sasa::qkv_attention_backward", "CUDA", _backward_cuda)
torch.library.impl("sasa::qkv_attention_inference", "CUDA", _inference_cuda)


@torch.library.register_fake("sasa::qkv_attention")
def _fake(qkv, rel_row, rel_col, kernel_size, num_heads, content, padding, scale):
    batch, channels, height, width = qkv.shape
    logsumexp = qkv.new_empty((batch, num_heads, height, width), dtype=compute_dtype(qkv))
    return empty_map(qkv, channels // (3 if content else 2)), logsumexp


@torch.library.register_fake("sasa::qkv_attention_backward")
def _fake_backward(grad_output, qkv, rel_row, rel_col, *rest):
    rels = [qkv.new_empty(0) if r is None else r.new_empty(r.shape) for r in (rel_row, rel_col)]
    return empty_map(qkv, qkv.shape[1]), *rels


@torch.library.register_fake("sasa::qkv_attention_inference")
def _fake_inference(qkv, rel_row, rel_col, gain, shift, relu, pool, kernel_size, num_heads, content, padding, scale):
    size = -(-qkv.shape[2] // pool), -(-qkv.shape[3] // pool)
    return empty_map(qkv, qkv.shape[1] // (3 if content else 2), size=size)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.options = inputs[3:]
    ctx.mark_non_differentiable(output[1])


def _autograd(ctx, grad_output, _grad_logsumexp):
    *inputs, logsumexp = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
    grads = torch.ops.sasa.qkv_attention_backward(grad_output, *inputs, logsumexp, *ctx.options)
    return *(None if given is None else grad for given, grad in zip(inputs, grads, strict=True)), *[None] * 5


def _no_derivative(ctx, *grads):
    raise NotImplementedError(
        'attention has no second derivative (and none in its form for inference); backend="reference" is '
        "differentiable to any order"
    )


torch.library.register_autograd("sasa::qkv_attention", _autograd, setup_context=_setup_context)
torch.library.register_autograd("sasa::qkv_attention_backward", _no_derivative)
torch.library.register_autograd("sasa::qkv_attention_inference", _no_derivative)
