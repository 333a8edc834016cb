"""`sasa::norm_relu`: batch norm in training with the shortcut and the ReLU behind it, for channels_last float32 maps.

The steps between convolutions are bound by memory: as one operation they read and write each map once where torch's
three do so two or three times, and more so backward. What it computes is what nn.BatchNorm2d, an addition and ReLU do.
"""

import torch
from torch import Tensor


def norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, *, relu: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """relu((x - mean) / sqrt(variance + eps) * weight + bias + residual) with the statistics of the batch.

    Args:
        x: (B, C, H, W), float32, dense, channels_last.
        weight: (C,).
        bias: (C,).
        residual: (B, C, H, W), laid out as x, or None.
        relu: whether negative results become 0.
        eps: as nn.BatchNorm2d has it.

    Returns:
        The map, and mean and (biased) variance of each channel, (C,), which carry no gradient.
    """
    return torch.ops.sasa.norm_relu(x, weight, bias, residual, relu, eps)


torch.library.define(
    "sasa::norm_relu",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? residual, bool relu, float eps) "
    "-> (Tensor y, Tensor mean, Tensor variance)",
)
# y is given where there was a residual; its gradient is empty where there was none, and grad itself without ReLU.
torch.library.define(
    "sasa::norm_relu_backward",
    "(Tensor grad, Tensor x, Tensor? y, Tensor weight, Tensor bias, Tensor mean, Tensor variance, bool relu, "
    "float eps) -> (Tensor, Tensor, Tensor, Tensor)",
)


def _fields(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x - mean, 1 / sqrt(variance + eps), and what batch norm makes of them."""
    inverse = torch.rsqrt(variance + eps)
    centred = x - mean[:, None, None]
    return centred, inverse, centred * (inverse * weight)[:, None, None] + bias[:, None, None]


def _forward(x, weight, bias, residual, relu, eps):
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    y = _fields(x, weight, bias, mean, variance, eps)[2]
    y = y if residual is None else y + residual
    return y.relu() if relu else y, mean, variance


def _backward(grad, x, y, weight, bias, mean, variance, relu, eps):
    centred, inverse, affine = _fields(x, weight, bias, mean, variance, eps)
    if relu:
        grad = grad * ((affine if y is None else y) > 0)
    count = x.numel() // x.shape[1]
    grad_bias, product = grad.sum((0, 2, 3)), (grad * centred).sum((0, 2, 3))
    inner = grad - (grad_bias / count)[:, None, None] - centred * (inverse.square() * product / count)[:, None, None]
    grad_residual = grad if y is not None and relu else x.new_empty(0)
    return inner * (weight * inverse)[:, None, None], product * inverse, grad_bias, grad_residual


torch.library.impl("sasa::norm_relu", "CompositeExplicitAutograd", _forward)
torch.library.impl("sasa::norm_relu_backward", "CompositeExplicitAutograd", _backward)


@torch.library.register_fake("sasa::norm_relu")
def _fake(x, weight, bias, residual, relu, eps):
    return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


@torch.library.register_fake("sasa::norm_relu_backward")
def _fake_backward(grad, x, y, weight, bias, mean, variance, relu, eps):
    grad_residual = torch.empty_like(x) if y is not None and relu else x.new_empty(0)
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias), grad_residual


def _setup_context(ctx, inputs, output):
    x, weight, bias, residual, ctx.relu, ctx.eps = inputs
    y, mean, variance = output
    ctx.save_for_backward(x, None if residual is None else y, weight, bias, mean, variance)
    ctx.mark_non_differentiable(mean, variance)


def _autograd(ctx, grad, _grad_mean, _grad_variance):
    x, y, weight, bias, mean, variance = ctx.saved_tensors  # read once: checkpointing refuses a second time
    grad = grad.contiguous(memory_format=torch.channels_last)
    grad_x, grad_weight, grad_bias, grad_residual = torch.ops.sasa.norm_relu_backward(
        grad, x, y, weight, bias, mean, variance, ctx.relu, ctx.eps
    )
    if y is None:
        grad_residual = None
    elif not ctx.relu:
        grad_residual = grad
    return grad_x, grad_weight, grad_bias, grad_residual, None, None


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError("sasa::norm_relu has no second derivative; nn.BatchNorm2d has")


torch.library.register_autograd("sasa::norm_relu", _autograd, setup_context=_setup_context)
torch.library.register_autograd("sasa::norm_relu_backward", _no_second_derivative)
