"""1 x 1 convolutions on a CPU, by `sasa.ops.pointwise` where that is faster than torch."""

import torch
from torch import Tensor, nn

from sasa.ops.fusion import is_transforming, may_fuse
from sasa.ops.pointwise import PointwiseConvolution, convolve_by_onednn, needs_onednn
from sasa.ops.precision import is_rows


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Compute conv(x), or the same faster."""
    if not (type(conv) is nn.Conv2d and _is_pointwise(conv, x)):
        return conv(x)
    if _has_gradient_kernel(conv, x):
        return PointwiseConvolution.apply(x, conv.weight, conv.stride[0])
    if conv.stride == (1, 1) and may_fuse("mkldnn_convolution", x, conv) and needs_onednn(x):
        return convolve_by_onednn(x, conv.weight, conv.bias)
    return conv(x)


def _is_pointwise(conv: nn.Conv2d, x: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)  # first: while torch.fx traces, x and the weights are proxies
        and conv.kernel_size == (1, 1)
        and conv.stride[0] == conv.stride[1]
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.weight.dtype == torch.float32
        and conv.weight.stride()[:2] == (conv.in_channels, 1)
        and not is_transforming()  # under vmap is_rows would raise; in forward mode the operators have no tangent
        and is_rows(x)
        and x.shape[1] == conv.in_channels
        and not torch.is_autocast_enabled("cpu")
    )


def _has_gradient_kernel(conv: nn.Conv2d, x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and conv.bias is None
        and conv.weight.requires_grad
        and may_fuse("pointwise_gradient", x, conv)
    )
