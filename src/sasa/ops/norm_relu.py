"""Batch norm, shortcut and ReLU in one operation: `sasa::norm_relu` in training, `sasa::affine_` (in place) otherwise.

These steps are limited by memory bandwidth. Fused they read and write each map once, where torch's three operations do
so two or three times, and more often in the backward pass. The results are those of nn.BatchNorm2d, an addition and
ReLU. In training the maps are channels_last and float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sasa.ops.call import call_op
from sasa.ops.gradients import CustomGradient, SecondGradient
from sasa.ops.precision import compute_dtype
from sasa.ops.register import register


def norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, *, relu: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute relu((x - mean) / sqrt(variance + eps) * weight + bias + residual) with the statistics of the batch.

    Args:
        x: (B, C, H, W), float32, dense, channels_last.
        weight: (C,).
        bias: (C,).
        residual: (B, C, H, W), laid out as x, or None.
        relu: whether negative results become 0.
        eps: added to the variance, as in nn.BatchNorm2d.

    Returns:
        The map, and the mean and (biased) variance of each channel, (C,), which are not differentiable.
    """
    return call_op("norm_relu", x, weight, bias, residual, relu, eps)


class NormForward(NamedTuple):
    """Arguments of the op `sasa::norm_relu`, as in the function."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    relu: bool
    eps: float


class NormBackward(NamedTuple):
    """Arguments of the op `sasa::norm_relu_backward`."""

    grad: Tensor
    x: Tensor
    y: Tensor | None  # given where there was a residual
    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    relu: bool
    eps: float


def _fields(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x - mean, 1 / sqrt(variance + eps), and the output of batch norm."""
    inverse = torch.rsqrt(variance + eps)
    centred = x - mean[:, None, None]
    return centred, inverse, centred * (inverse * weight)[:, None, None] + bias[:, None, None]


def _forward(call: NormForward) -> tuple[Tensor, Tensor, Tensor]:
    variance, mean = torch.var_mean(call.x, (0, 2, 3), correction=0)
    y = _fields(call.x, call.weight, call.bias, mean, variance, call.eps)[2]
    y = y if call.residual is None else y + call.residual
    return y.relu() if call.relu else y, mean, variance


def _backward(call: NormBackward) -> tuple[Tensor | None, ...]:
    """Gradients for x, weight, bias and residual; the last is None without a residual, and `grad` without ReLU."""
    grad, x, y, weight, bias, mean, variance, relu, eps = call
    centred, inverse, affine = _fields(x, weight, bias, mean, variance, eps)
    if relu:
        grad = grad * ((affine if y is None else y) > 0)
    count = x.numel() // x.shape[1]
    grad_bias, product = grad.sum((0, 2, 3)), (grad * centred).sum((0, 2, 3))
    inner = grad - (grad_bias / count)[:, None, None] - centred * (inverse.square() * product / count)[:, None, None]
    grad_residual = grad if y is not None and relu else None
    return inner * (weight * inverse)[:, None, None], product * inverse, grad_bias, grad_residual


def _composed_backward(call: NormBackward) -> tuple[Tensor | None, ...]:
    """Compute the gradients with the statistics as functions of x, so that they can be differentiated again."""
    variance, mean = torch.var_mean(call.x, (0, 2, 3), correction=0)
    return _backward(call._replace(mean=mean, variance=variance))


def _fake(call: NormForward) -> tuple[Tensor, Tensor, Tensor]:
    x = call.x
    return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _fake_backward(call: NormBackward) -> tuple[Tensor | None, ...]:
    grad_residual = torch.empty_like(call.x) if call.y is not None and call.relu else None
    return torch.empty_like(call.x), torch.empty_like(call.weight), torch.empty_like(call.bias), grad_residual


def _setup_context(ctx, inputs, output):
    x, weight, bias, residual, ctx.relu, ctx.eps = inputs
    y, mean, variance = output
    ctx.save_for_backward(x, None if residual is None else y, weight, bias, mean, variance)
    ctx.mark_non_differentiable(mean, variance)


def _autograd(ctx, grad, _grad_mean, _grad_variance):
    x, y, weight, bias, mean, variance = ctx.saved_tensors  # read once: checkpointing refuses a second time
    grad = grad.contiguous(memory_format=torch.channels_last)
    grad_x, grad_weight, grad_bias, grad_residual = call_op(
        "norm_relu_backward", grad, x, y, weight, bias, mean, variance, ctx.relu, ctx.eps
    )
    if y is None:
        grad_residual = None
    elif not ctx.relu:
        grad_residual = grad
    return grad_x, grad_weight, grad_bias, grad_residual, None, None


register(
    "norm_relu -> (Tensor y, Tensor mean, Tensor variance)",
    NormForward,
    plain=_forward,
    fake=_fake,
    gradient=CustomGradient(_setup_context, _autograd),
)
register(
    "norm_relu_backward -> (Tensor, Tensor, Tensor, Tensor)",
    NormBackward,
    plain=_backward,
    fake=_fake_backward,
    gradient=SecondGradient(_composed_backward),
)


def affine_(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, residual: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """Overwrite x with x * gain + shift for each channel, plus residual, and ReLU.

    Args:
        x: (B, C, H, W), dense: contiguous or channels_last; must not be needed for a gradient.
        gain: (C,), or None for 1.
        shift: (C,), or None for 0.
        residual: (B, C, H, W), of any layout and dtype, or None.
        relu: whether negative results become 0.

    Returns:
        x.
    """
    if residual is not None and (residual.dtype != x.dtype or residual.stride() != x.stride()):
        residual = torch.empty_like(x).copy_(residual)
    torch.ops.sasa.affine_(x, gain, shift, residual, relu)
    return x


class Affine(NamedTuple):
    """Arguments of the op `sasa::affine_`, as in the function."""

    x: Tensor
    gain: Tensor | None
    shift: Tensor | None
    residual: Tensor | None
    relu: bool


def scaled(y: Tensor, gain: Tensor | None, shift: Tensor | None) -> Tensor:
    """y * gain + shift for each channel; None is 1 and 0."""
    y = y if gain is None else y * gain[:, None, None]
    return y if shift is None else y + shift[:, None, None]


def _affine(call: Affine) -> None:
    x, gain, shift, residual, relu = call
    y = scaled(x.to(compute_dtype(x)), gain, shift)  # rounded once, at the end
    if residual is not None:
        y = y + residual
    x.copy_(y.relu() if relu else y)


register(
    "affine_ -> ()",
    Affine,
    plain=_affine,
    fake=lambda call: None,
    gradient=None,
)
