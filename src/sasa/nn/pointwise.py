"""1 x 1 convolutions in training on the CPU, with the weights' gradient by `sasa::pointwise_gradient`."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from sasa.ops.fusion import may_fuse
from sasa.ops.pointwise import PointwiseConvolution
from sasa.ops.precision import is_rows


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Compute conv(x); the gradient of its weights is computed by the kernel where that is possible."""
    if isinstance(conv, nn.Conv2d) and _has_kernel(conv, x):
        return PointwiseConvolution.apply(x, conv.weight, conv.stride[0])
    return conv(x)


def _has_kernel(conv: nn.Conv2d, x: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)  # first: while torch.fx traces, x and the weights are proxies
        and type(conv) is nn.Conv2d
        and torch.is_grad_enabled()
        and conv.kernel_size == (1, 1)
        and conv.stride[0] == conv.stride[1]
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.bias is None
        and conv.weight.requires_grad
        and conv.weight.dtype == torch.float32
        and conv.weight.stride()[:2] == (conv.in_channels, 1)
        and may_fuse("pointwise_gradient", x, conv)
        and is_rows(x)
        and x.shape[1] == conv.in_channels
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
    )
