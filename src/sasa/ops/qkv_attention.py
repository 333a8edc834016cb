"""`sasa::qkv_attention`: local attention on the output of one projection, as `LocalAttention2d` has it.

q, k and v lie one after the other along the channels of one map, and so do their gradients: nothing is split, copied
or put together around the kernels. For inference there is a second operator that also does what follows attention.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import eager, flops
from sasa.ops.arguments import QkvBackward, QkvForward, QkvInference, QkvInputs, QkvOptions, split
from sasa.ops.backends import triton
from sasa.ops.checks import check_no_forward_mode
from sasa.ops.local_attention import local_attention
from sasa.ops.precision import autocast_to, compute_dtype, empty_map, without_autocast
from sasa.ops.register import Gradient, register


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
    if backend != "auto":
        return local_attention(
            *split(qkv, content), rel_row, rel_col,
            kernel_size=kernel_size, num_heads=num_heads, padding=padding, scale=scale, content=content,
            backend=backend,
        )  # fmt: skip
    (qkv,) = autocast_to(qkv.device, qkv)  # pyright: ignore[reportAssignmentType]
    inputs = QkvInputs(qkv, rel_row, rel_col)
    check_no_forward_mode(inputs)
    with without_autocast(qkv.device):
        return torch.ops.sasa.qkv_attention(*inputs, kernel_size, num_heads, content, padding, float(scale))[0]


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
    (qkv,) = autocast_to(qkv.device, qkv)  # pyright: ignore[reportAssignmentType]
    inputs = QkvInputs(qkv, rel_row, rel_col)
    check_no_forward_mode(inputs)
    with without_autocast(qkv.device):
        return torch.ops.sasa.qkv_attention_inference(
            *inputs, gain, shift, relu, pool, kernel_size, num_heads, content, padding, float(scale)
        )


def _forward(call: QkvForward) -> tuple[Tensor, Tensor]:
    return eager.forward(*call.local)


def _cuda(call: QkvForward) -> tuple[Tensor, Tensor]:
    local = call.local
    return triton.for_call(*local).local_forward(local)


def _fake(call: QkvForward) -> tuple[Tensor, Tensor]:
    qkv, options = call.inputs.qkv, call.options
    shape = (qkv.shape[0], options.num_heads, *qkv.shape[2:])
    return empty_map(qkv, _channels(qkv, options)), qkv.new_empty(shape, dtype=compute_dtype(qkv))


def _channels(qkv: Tensor, options: QkvOptions) -> int:
    return qkv.shape[1] // (3 if options.content else 2)


def _backward(call: QkvBackward) -> tuple[Tensor | None, ...]:
    return _gathered(call, eager.backward(call.local))


def _cuda_backward(call: QkvBackward) -> tuple[Tensor | None, ...]:
    local, qkv = call.local, call.inputs.qkv
    backend = triton.for_call(local.inputs, local.options)
    if backend is not triton.BACKEND:
        return _gathered(call, backend.local_backward(local))
    grad_qkv = empty_map(qkv, qkv.shape[1])
    *_, grad_row, grad_col = triton.local_backward_into(split(grad_qkv, call.options.content), local)
    return grad_qkv, grad_row, grad_col


def _gathered(call: QkvBackward, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The gradients of q, k and v in one map."""
    *maps, grad_row, grad_col = grads
    qkv = call.inputs.qkv
    grad_qkv = empty_map(qkv, qkv.shape[1])
    for part, grad in zip(split(grad_qkv, call.options.content), maps, strict=True):
        if part is not None and grad is not None:
            part.copy_(grad)
    return grad_qkv, grad_row, grad_col


def _fake_backward(call: QkvBackward) -> tuple[Tensor | None, ...]:
    qkv, *rels = call.inputs
    return empty_map(qkv, qkv.shape[1]), *(None if r is None else r.new_empty(r.shape) for r in rels)


def _inference(call: QkvInference) -> Tensor:
    output, _ = _forward(QkvForward(call.inputs, call.options))
    return _finish(output, call)


def _cuda_inference(call: QkvInference) -> Tensor:
    output, _ = _cuda(QkvForward(call.inputs, call.options))
    return _finish(output, call)


def _finish(output: Tensor, call: QkvInference) -> Tensor:
    qkv, (gain, shift, relu, pool) = call.inputs.qkv, call.epilogue
    y = output.to(compute_dtype(qkv))
    if pool > 1:
        y = F.avg_pool2d(y, pool, ceil_mode=True, count_include_pad=False)
    if gain is not None:
        y = y * gain[:, None, None]
    if shift is not None:
        y = y + shift[:, None, None]
    result = empty_map(qkv, y.shape[1], size=(y.shape[2], y.shape[3]))
    return result.copy_(y.relu() if relu else y)


def _fake_inference(call: QkvInference) -> Tensor:
    qkv, pool = call.inputs.qkv, call.epilogue.pool
    return empty_map(qkv, _channels(qkv, call.options), size=(-(-qkv.shape[2] // pool), -(-qkv.shape[3] // pool)))


def _gradient(grads, inputs, logsumexp, options, _):
    return torch.ops.sasa.qkv_attention_backward(grads[0], *inputs, logsumexp, *options)


NO_DERIVATIVE = (
    'attention has no second derivative (and none in its form for inference); backend="reference" is '
    "differentiable to any order"
)

register(
    "qkv_attention",
    "(Tensor qkv, Tensor? rel_row, Tensor? rel_col, int kernel_size, int num_heads, bool content, str padding, "
    "float scale) -> (Tensor output, Tensor logsumexp)",
    QkvForward,
    plain=_forward,
    cuda=_cuda,
    fake=_fake,
    gradient=Gradient(inputs=3, kept=1, backward=_gradient),
    flops=flops.qkv_attention,
)
register(
    "qkv_attention_backward",
    "(Tensor grad_output, Tensor qkv, Tensor? rel_row, Tensor? rel_col, Tensor logsumexp, int kernel_size, "
    "int num_heads, bool content, str padding, float scale) -> (Tensor, Tensor, Tensor)",
    QkvBackward,
    plain=_backward,
    cuda=_cuda_backward,
    fake=_fake_backward,
    gradient=NO_DERIVATIVE,
    flops=flops.qkv_attention_backward,
)
register(
    "qkv_attention_inference",
    "(Tensor qkv, Tensor? rel_row, Tensor? rel_col, Tensor? gain, Tensor? shift, bool relu, int pool, "
    "int kernel_size, int num_heads, bool content, str padding, float scale) -> Tensor",
    QkvInference,
    plain=_inference,
    cuda=_cuda_inference,
    fake=_fake_inference,
    gradient=NO_DERIVATIVE,
    flops=flops.qkv_attention_inference,
)
