"""`sasa::qkv_attention`: local attention on the output of one projection, as `LocalAttention2d` computes it.

q, k and v lie one after the other along the channels of one map, and so do their gradients: nothing is split, copied
or concatenated around the kernels. A second operator, for inference, also applies pooling, norm and ReLU.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import eager, flops, reference
from sasa.ops.arguments import (
    QKV,
    Epilogue,
    LocalForward,
    QkvBackward,
    QkvForward,
    QkvInference,
    QkvInputs,
    QkvOptions,
    split,
)
from sasa.ops.backends import triton
from sasa.ops.backends.base import dispatch
from sasa.ops.fusion import needs_reference
from sasa.ops.local_attention import check_options, local_attention
from sasa.ops.norm_relu import scaled
from sasa.ops.precision import autocast_to, compute_dtype, empty_map, without_autocast
from sasa.ops.register import FunctionPair, register, register_attention

CUDA_LOCAL = triton.dispatched("local_attention")


def qkv_attention(inputs: QkvInputs, options: QkvOptions, backend: str = "auto") -> Tensor:
    """Compute `local_attention` of the thirds of one map (halves without content), Eq. 3 of the paper: (B, C, H, W)."""
    if backend == "auto" and needs_reference(inputs):
        backend = "reference"
    if backend != "auto":
        local, local_options = QkvForward(inputs, options).local
        return local_attention(*local, **local_options._asdict(), content=options.content, backend=backend)
    return dispatch(QKV, _rounded(inputs), options)


def qkv_attention_inference(inputs: QkvInputs, epilogue: Epilogue, options: QkvOptions) -> Tensor:
    """Compute `qkv_attention`, then pooling, norm and ReLU (`Epilogue`), for inference. Not differentiable.

    Returns:
        (B, C, ceil(H / pool), ceil(W / pool)).
    """
    inputs = _rounded(inputs)
    with without_autocast(inputs.qkv.device):
        return torch.ops.sasa.qkv_attention_inference(*inputs, *epilogue, *options)


def _rounded(inputs: QkvInputs) -> QkvInputs:
    """Convert the map to autocast's dtype."""
    (qkv,) = autocast_to(inputs.qkv.device, inputs.qkv)
    return QkvInputs(qkv, inputs.rel_row, inputs.rel_col)  # pyright: ignore[reportArgumentType]


def _checked(call: QkvForward) -> LocalForward:
    """Return the equivalent `local_attention` call, checked: layers call this operator directly."""
    local = call.local
    check_options(*local)
    return local


def _forward(call: QkvForward) -> tuple[Tensor, Tensor]:
    return eager.forward(_checked(call))


def _cuda(call: QkvForward) -> tuple[Tensor, Tensor]:
    return CUDA_LOCAL.forward(_checked(call))


def _channels(call: QkvForward | QkvInference) -> int:
    return call.inputs.qkv.shape[1] // (3 if call.options.content else 2)


def _backward(call: QkvBackward) -> tuple[Tensor | None, ...]:
    """The gradients of q, k and v concatenated in one map, and those of the embeddings."""
    *maps, grad_row, grad_col = eager.backward(call.local)
    qkv = call.inputs.qkv
    grad_qkv = empty_map(qkv, qkv.shape[1])
    for part, grad in zip(split(grad_qkv, call.options.content), maps, strict=True):
        if part is not None and grad is not None:
            part.copy_(grad)
    return grad_qkv, grad_row, grad_col


def _cuda_backward(call: QkvBackward) -> tuple[Tensor | None, ...]:
    local, qkv = call.local, call.inputs.qkv
    if triton.for_call(local) is not triton.BACKEND:
        return _backward(call)
    from sasa.ops.gpu import local_launch

    grad_qkv = empty_map(qkv, qkv.shape[1])
    *_, grad_row, grad_col = local_launch.backward(local, into=split(grad_qkv, call.options.content))
    return grad_qkv, grad_row, grad_col


def _inference(call: QkvInference) -> Tensor:
    return _finish(_forward(call.forward)[0], call)


def _cuda_inference(call: QkvInference) -> Tensor:
    return _finish(_cuda(call.forward)[0], call)


def _finish(output: Tensor, call: QkvInference) -> Tensor:
    qkv, (gain, shift, relu, pool) = call.inputs.qkv, call.epilogue
    y = output.to(compute_dtype(qkv))
    if pool > 1:
        y = F.avg_pool2d(y, pool, ceil_mode=True, count_include_pad=False)
    y = scaled(y, gain, shift)
    result = empty_map(qkv, y.shape[1], size=(y.shape[2], y.shape[3]))
    return result.copy_(y.relu() if relu else y)


def _fake_inference(call: QkvInference) -> Tensor:
    qkv, pool = call.inputs.qkv, call.epilogue.pool
    return empty_map(qkv, _channels(call), size=(-(-qkv.shape[2] // pool), -(-qkv.shape[3] // pool)))


register_attention(
    QKV,
    plain=FunctionPair(_forward, _backward),
    cuda=FunctionPair(_cuda, _cuda_backward),
    channels=_channels,
    flops=FunctionPair(lambda c: flops.local_attention(c.local), lambda c: flops.local_attention_backward(c.local)),
    reference=lambda inputs, options: reference.local_attention(*QkvForward(inputs, options).local),
)
register(
    "qkv_attention_inference -> Tensor",
    QkvInference,
    plain=_inference,
    cuda=_cuda_inference,
    fake=_fake_inference,
    gradient="sasa::qkv_attention_inference has no gradient; LocalAttention2d calls it only where none is needed",
    flops=lambda call: flops.local_attention(call.forward.local),
)
