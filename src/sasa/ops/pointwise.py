"""`sasa::pointwise_gradient`: the gradient of the weights of a 1 x 1 convolution, for channels_last float32 maps.

On CPUs torch is further from the peak rate in this gradient than in the convolution and the gradient of its input,
which remain torch's (benchmarks/README.md).
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


class PointwiseConvolution(torch.autograd.Function):
    """1 x 1 convolution of x (B, I, H, W), float32, dense, channels_last, with weights (O, I, 1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """(B, O, H, W), torch's own convolution."""
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x and weight."""
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        of_x, of_weight = ctx.needs_input_grad
        by_kernel = of_weight and not torch.is_grad_enabled()  # only torch's gradient can be differentiated again
        by_torch = [of_x, of_weight and not by_kernel, False]
        grad_x = grad_weight = None
        if any(by_torch):
            grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, by_torch
            )
        if by_kernel:
            grad_weight = torch.ops.sasa.pointwise_gradient(grad, x)
            # The strides of the axes of one are those of the weights, which DistributedDataParallel expects.
            grad_weight = grad_weight.as_strided(weight.shape, weight.stride())
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
