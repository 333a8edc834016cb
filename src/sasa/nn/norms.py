"""Batch norm beside attention: as y * gain + shift where attention's kernel does it by the way.

A batch norm is taken apart only where nobody could tell: it is plain, in evaluation (or its statistics come with the
sums that the kernel made), and nobody watches it by a hook.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.nn.attention import LocalAttention2d


def attention_norm_relu(attention: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """relu(norm(attention(x))); one pass over the map where `attention` has a form for inference.

    Args:
        attention: a `LocalAttention2d`, or any other layer, such as the convolution that it replaces.
        norm: the batch norm behind it.
        x: (B, C, H, W).
    """
    if (
        type(attention) is LocalAttention2d
        and is_plain(norm)
        and not uses_batch_statistics(norm)
        and not is_watched(attention)
        and not torch.is_grad_enabled()  # before x is asked: a trace of the network has no answer to that
        and x.dim() == 4
        and attention.has_inference_form(x)
    ):
        gain, shift = gain_and_shift(norm, norm.running_mean, norm.running_var)  # pyright: ignore
        return attention.infer(x, gain, shift, relu=True)
    return F.relu(norm(attention(x)), inplace=True)


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


def gain_and_shift(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """norm(y) = y * gain + shift for each channel, (C,) each, in float32 or better."""
    dtype = torch.promote_types(mean.dtype, torch.float32)
    inverse = torch.rsqrt(variance.to(dtype) + norm.eps)
    gain = inverse if norm.weight is None else norm.weight.to(dtype) * inverse
    shift = -mean.to(dtype) * gain
    return gain, shift if norm.bias is None else norm.bias.to(dtype) + shift


def statistics_of_sums(norm: nn.BatchNorm2d, sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of a batch, (C,) each, from the sums of y and y * y over `count` pixels; moves the running ones.

    Args:
        norm: in training, or without statistics of its own.
        sums: (2, C), float64.
        count: pixels of all pictures.
    """
    if count < 2 and norm.training:
        raise ValueError(f"batch norm in training wants more than one value for each channel, and got {count}")
    mean = sums[0] / count
    variance = (sums[1] / count - mean.square()).clamp_min(0)
    if norm.training and norm.track_running_stats:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            part = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
            unbiased = variance * (count / max(count - 1, 1))
            norm.running_mean += part * (mean.to(norm.running_mean.dtype) - norm.running_mean)
            norm.running_var += part * (unbiased.to(norm.running_var.dtype) - norm.running_var)
    return mean, variance
