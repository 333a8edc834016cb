"""Convolution or attention, batch norm, shortcut and ReLU: the step that networks repeat, fused where possible.

It is a function of modules, not a module, so that the norm stays an nn.BatchNorm2d: SyncBatchNorm's conversion, frozen
norms, torch.fx and quantisation would lose a ReLU hidden in a subclass.

In inference on the CPU a batch norm is y * gain + shift with constants. After attention the kernel applies it before it
writes its output (`sasa::qkv_attention_inference`); after a convolution `sasa::affine_` applies it in place. Training
uses `sasa::norm_relu`. `sasa.ops.fusion` decides when; otherwise torch's own operations run one after the other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.nn.attention import LocalAttention2d
from sasa.nn.batch_norm import gain_and_shift, move_statistics, uses_batch_statistics
from sasa.nn.pointwise import convolve
from sasa.ops.arguments import Epilogue
from sasa.ops.fusion import is_watched, may_fuse
from sasa.ops.norm_relu import affine_, norm_relu
from sasa.ops.precision import is_rows


def conv_norm_act(
    x: Tensor, conv: nn.Module, norm: nn.Module, residual: Tensor | None = None, *, relu: bool = True
) -> Tensor:
    """Compute relu(norm(conv(x)) + residual).

    Args:
        x: (B, C, H, W).
        conv: a convolution, a `LocalAttention2d` or any other layer.
        norm: the norm after it, or `nn.Identity` where it was folded.
        residual: output of the shortcut, of the result's shape, or None.
        relu: whether negative results become 0.
    """
    if residual is None and relu and _fuses_into_attention(conv, norm, x):
        assert isinstance(conv, LocalAttention2d)
        return conv.infer(x, Epilogue(*_constants(norm), relu=True, pool=conv.stride))
    overwrites = _is_constant(norm) and type(conv) is nn.Conv2d and may_fuse("affine_", x, conv, norm)
    y = convolve(conv, x)
    if overwrites:
        return _scale_in_place(y, norm, residual, relu)
    if _is_normalised_by_kernel(norm, y, residual):
        return _normalise(y, norm, residual, relu)
    y = norm(y)
    if y is x or is_watched(conv, norm):  # Identity returned the input, or a hook may have stored the output
        y = y if residual is None else y + residual
        return F.relu(y) if relu else y
    if residual is not None:
        y += residual  # in place: allocating a new map would cost as much as the sum
    return F.relu(y, inplace=True) if relu else y


def _fuses_into_attention(conv: nn.Module, norm: nn.Module, x: Tensor) -> bool:
    return (
        type(conv) is LocalAttention2d
        and _is_constant(norm)
        and not torch.compiler.is_compiling()
        and not is_watched(conv, norm)
        and isinstance(x, Tensor)
        and x.dim() == 4
        and conv.may_infer(x)
    )


def _is_constant(norm: nn.Module) -> bool:
    """Return whether the norm is y * gain + shift with constants, or was folded away."""
    if isinstance(norm, nn.Identity):
        return True
    return type(norm) is nn.BatchNorm2d and not uses_batch_statistics(norm)


def _constants(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Gain and shift, (C,) each; None for 1 and 0."""
    if isinstance(norm, nn.Identity):
        return None, None
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return gain_and_shift(norm, norm.running_mean, norm.running_var)


def _scale_in_place(y: Tensor, norm: nn.Module, residual: Tensor | None, relu: bool) -> Tensor:
    gain, shift = _constants(norm)
    if gain is None and residual is None and not relu:
        return y
    return affine_(y, gain, shift, residual, relu=relu)


def _is_normalised_by_kernel(norm: nn.Module, y: Tensor, residual: Tensor | None) -> bool:
    """Return whether `sasa::norm_relu` can compute the output of the norm in training."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and may_fuse("norm_relu", y, norm)
        and norm.weight is not None
        and norm.weight.dtype == torch.float32
        and all(is_rows(map_) for map_ in (y, residual) if map_ is not None)
        and (residual is None or residual.shape == y.shape)
        and y.numel() > y.shape[1]  # one value per channel has no variance: torch raises
    )


def _normalise(y: Tensor, norm: nn.Module, residual: Tensor | None, relu: bool) -> Tensor:
    assert isinstance(norm, nn.BatchNorm2d)
    result, mean, variance = norm_relu(y, norm.weight, norm.bias, residual, relu=relu, eps=norm.eps)
    move_statistics(norm, mean, variance, y.numel() // y.shape[1])
    return result
