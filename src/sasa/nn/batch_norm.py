"""Parts of batch norm for the fused operators: constants, statistics of a batch, running statistics."""

import torch
from torch import Tensor, nn


def uses_batch_statistics(norm: nn.Module) -> bool:
    """Return whether the norm uses batch statistics: in training, or if it has no running ones (as nn.BatchNorm2d)."""
    return norm.training or norm.running_mean is None


def gain_and_shift(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and shift with norm(y) = y * gain + shift for each channel, (C,) each, in float32 or better."""
    dtype = torch.promote_types(mean.dtype, torch.float32)
    inverse = torch.rsqrt(variance.to(dtype) + norm.eps)
    gain = inverse if norm.weight is None else norm.weight.to(dtype) * inverse
    shift = -mean.to(dtype) * gain
    return gain, shift if norm.bias is None else norm.bias.to(dtype) + shift


def statistics_of_sums(norm: nn.BatchNorm2d, sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute mean and variance of a batch, (C,) each, and update the running statistics as `nn.BatchNorm2d` does.

    Args:
        norm: in training, or without running statistics.
        sums: (2, C), float64: sums of y and of y * y over all pixels.
        count: number of pixels of all images.
    """
    if count < 2 and norm.training:
        raise ValueError(f"batch norm in training needs more than one value for each channel, got {count}")
    mean = sums[0] / count
    variance = (sums[1] / count - mean.square()).clamp_min(0)
    move_statistics(norm, mean, variance, count)
    return mean, variance


@torch.no_grad()
def move_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics, if there are any, with those of a batch of `count` pixels."""
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
