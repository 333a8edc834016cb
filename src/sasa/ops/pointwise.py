"""1 x 1 convolutions of channels_last float32 maps on a CPU, and `sasa::pointwise_gradient`, their weights' gradient.

On CPUs torch is further from the peak rate in this gradient than in the convolution and the gradient of its input,
which remain torch's, and slower with a stride than from a copy of the pixels that are read. On one thread it computes
small batches by products of MKL, which take up to twice the time of oneDNN's convolution (benchmarks/README.md).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import flops
from sasa.ops.register import register


class PointwiseGradient(NamedTuple):
    """Arguments of the op: gradient of the output (B, O, H, W) and input (B, I, H, W)."""

    grad: Tensor
    x: Tensor


SMALL_BATCH = 16  # images; for fewer, on one thread, torch does not call oneDNN for a 1 x 1 convolution of stride 1


def needs_onednn(x: Tensor) -> bool:
    """Return whether torch has oneDNN but would not use it for a 1 x 1 convolution of x with stride 1."""
    return x.shape[0] < SMALL_BATCH and torch.get_num_threads() == 1 and torch.backends.mkldnn.is_available()


def convolve_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1 x 1 convolution of x (B, I, H, W) with weights (O, I, 1, 1), without a gradient."""
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, [0, 0], [1, 1], [1, 1], 1)


class PointwiseConvolution(torch.autograd.Function):
    """1 x 1 convolution of x (B, I, H, W), float32, dense, channels_last, with weights (O, I, 1, 1) and any stride."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """(B, O, ceil(H / stride), ceil(W / stride))."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        if stride == 1 and needs_onednn(x):
            return convolve_by_onednn(x, weight)
        return F.conv2d(x, weight, stride=stride)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x and weight."""
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        of_x, of_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # only torch's gradients can be differentiated again
            return *_by_torch(grad, x, weight, ctx.stride, of_x=of_x, of_weight=of_weight), None
        return *_by_kernel(grad, x, weight, ctx.stride, of_x=of_x, of_weight=of_weight), None


def _by_torch(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, *, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [of_x, of_weight, False]
    )
    return grad_x, grad_weight


def _by_kernel(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, *, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients from the pixels that the convolution reads."""
    read = x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)
    grad_x = grad_weight = None
    if of_x and needs_onednn(x):
        grad_x = convolve_by_onednn(grad, weight.transpose(0, 1))
    elif of_x:
        grad_x, _ = _by_torch(grad, read, weight, 1, of_x=True, of_weight=False)
    if grad_x is not None and stride > 1:
        grad_read, grad_x = grad_x, torch.zeros_like(x)
        grad_x[:, :, ::stride, ::stride] = grad_read
    if of_weight:
        # The strides of the axes of one are those of the weights, which DistributedDataParallel expects.
        grad_weight = torch.ops.sasa.pointwise_gradient(grad, read).as_strided(weight.shape, weight.stride())
    return grad_x, grad_weight


def _gradient(call: PointwiseGradient) -> Tensor:
    return torch.einsum("bohw,bihw->oi", call.grad, call.x)[:, :, None, None]


def _fake(call: PointwiseGradient) -> Tensor:
    return call.x.new_empty((call.grad.shape[1], call.x.shape[1], 1, 1))


register(
    "pointwise_gradient -> Tensor",
    PointwiseGradient,
    plain=_gradient,
    fake=_fake,
    gradient="sasa::pointwise_gradient has no gradient; PointwiseConvolution calls it only where none is needed",
    flops=lambda call: 2 * flops.pixels(call.x) * call.x.shape[1] * call.grad.shape[1],
)
