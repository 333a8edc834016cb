"""Batch norm, shortcut and ReLU between convolutions and attention: as one pass over the map where that is the same.

On a GPU, under a compiler and in a trace these are torch's own operations, one after the other. On the CPU, in
inference, a batch norm is y * gain + shift with constants, which attention's kernel does by the way, and
`sasa::affine_` in place behind a convolution; in training it is `sasa::norm_relu`. A batch norm is taken apart only
where nobody could tell: it is plain, and nobody watches it (or, in inference, the layer before it) by a hook.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sasa.nn.attention import LocalAttention2d
from sasa.ops import native
from sasa.ops.affine import affine_
from sasa.ops.norm_relu import norm_relu
from sasa.ops.precision import is_channels_last

Affine = tuple[Tensor | None, Tensor | None]  # gain and shift, None for 1 and 0


def layer_norm_relu(layer: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """relu(norm(layer(x))).

    Args:
        layer: a convolution or a `LocalAttention2d`; any other layer will do.
        norm: the batch norm behind it, or nothing (`nn.Identity`) where it was folded.
        x: (B, C, H, W).
    """
    if _in_one_pass(layer, norm, x):
        if isinstance(layer, LocalAttention2d):
            return layer.infer(x, *_constants(norm), relu=True)
        return affine_(layer(x), *_constants(norm), relu=True)
    y = layer(x)
    if _trains_in_one_pass(norm, y):
        return _normalise(norm, y, None, relu=True)
    return F.relu(norm(y), inplace=True)


def layer_norm_add_relu(layer: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """relu(norm(layer(x)) + residual), the end of a block; layer and norm as for `layer_norm_relu`."""
    if _in_one_pass(layer, norm, x) and not isinstance(layer, LocalAttention2d):
        return affine_(layer(x), *_constants(norm), residual, relu=True)
    y = layer(x)
    if _trains_in_one_pass(norm, y, residual):
        return _normalise(norm, y, residual, relu=True)
    y = norm(y)
    y += residual  # in place: a new map of this width would cost as much as the sum
    return F.relu(y, inplace=True)


def layer_norm(layer: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """norm(layer(x)); layer and norm as for `layer_norm_relu`."""
    if _in_one_pass(layer, norm, x) and not isinstance(layer, LocalAttention2d):
        gain, shift = _constants(norm)
        y = layer(x)
        return y if gain is None else affine_(y, gain, shift)
    y = layer(x)
    return _normalise(norm, y, None, relu=False) if _trains_in_one_pass(norm, y) else norm(y)


def _in_one_pass(layer: nn.Module, norm: nn.Module, x: Tensor) -> bool:
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or native.missing() is not None:
        return False
    if is_watched(layer) or is_watched(norm):
        return False
    if not (isinstance(norm, nn.Identity) or (is_plain(norm) and not uses_batch_statistics(norm))):
        return False
    if x.device.type != "cpu" or x.dim() != 4:
        return False
    return layer.has_inference_form(x) if type(layer) is LocalAttention2d else type(layer) is nn.Conv2d


def _trains_in_one_pass(norm: nn.Module, y: Tensor, residual: Tensor | None = None) -> bool:
    """Whether `sasa::norm_relu` may stand for `norm`, in training, on the map y."""
    if isinstance(y, fx.Proxy) or torch.compiler.is_compiling() or native.missing() is not None:
        return False
    return (
        norm.training
        and is_plain(norm)
        and norm.weight is not None
        and norm.weight.dtype == torch.float32
        and all(_is_rows(map_) for map_ in (y, residual) if map_ is not None)
        and (residual is None or residual.shape == y.shape)
        and y.numel() > y.shape[1]  # one value a channel has no variance: torch says so
    )


def _is_rows(map_BCHW: Tensor) -> bool:
    return (
        map_BCHW.device.type == "cpu"
        and map_BCHW.dtype == torch.float32
        and map_BCHW.dim() == 4
        and map_BCHW.numel() > 0
        and is_channels_last(map_BCHW)
        and map_BCHW.is_contiguous(memory_format=torch.channels_last)
    )


def _normalise(norm: nn.Module, y: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
    assert isinstance(norm, nn.BatchNorm2d)
    result, mean, variance = norm_relu(y, norm.weight, norm.bias, residual, relu=relu, eps=norm.eps)
    move_statistics(norm, mean, variance, y.numel() // y.shape[1])
    return result


def is_plain(norm: nn.Module) -> bool:
    """Whether `norm` is `nn.BatchNorm2d` itself (not synchronised, not frozen by a subclass), without hooks."""
    return type(norm) is nn.BatchNorm2d and not is_watched(norm)


def is_watched(module: nn.Module) -> bool:
    """Whether a hook waits for the module's input or output."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def uses_batch_statistics(norm: nn.Module) -> bool:
    """As `nn.BatchNorm2d` decides: in training, and where it keeps none of its own."""
    return norm.training or norm.running_mean is None


def _constants(norm: nn.Module) -> Affine:
    if isinstance(norm, nn.Identity):
        return None, None
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return gain_and_shift(norm, norm.running_mean, norm.running_var)


def gain_and_shift(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """norm(y) = y * gain + shift for each channel, (C,) each, in float32 or better."""
    dtype = torch.promote_types(mean.dtype, torch.float32)
    inverse = torch.rsqrt(variance.to(dtype) + norm.eps)
    gain = inverse if norm.weight is None else norm.weight.to(dtype) * inverse
    shift = -mean.to(dtype) * gain
    return gain, shift if norm.bias is None else norm.bias.to(dtype) + shift


def statistics_of_sums(norm: nn.BatchNorm2d, sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of a batch, (C,) each, from its sums; moves the running statistics as `nn.BatchNorm2d` does.

    Args:
        norm: in training, or without statistics of its own.
        sums: (2, C), float64: of y and of y * y.
        count: pixels of all pictures.
    """
    if count < 2 and norm.training:
        raise ValueError(f"batch norm in training wants more than one value for each channel, and got {count}")
    mean = sums[0] / count
    variance = (sums[1] / count - mean.square()).clamp_min(0)
    move_statistics(norm, mean, variance, count)
    return mean, variance


@torch.no_grad()
def move_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Moves the running statistics, if there are any, by those of a batch of `count` pixels; as `nn.BatchNorm2d`."""
    if not norm.training or not norm.track_running_stats:
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    part = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), part)
    unbiased = variance * (count / max(count - 1, 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), part)
