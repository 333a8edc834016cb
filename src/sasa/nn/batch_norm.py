"""Batch norm's arithmetic, for the fused forms that compute it in pieces: constants, statistics, running averages."""

import torch
from torch import Tensor, nn


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
    """Mean and variance of a batch, (C,) each, from its sums; moves the running statistics as `nn.BatchNorm2d` does.

    Args:
        norm: in training, or without statistics of its own.
        sums: (2, C), float64: of y and of y * y.
        count: pixels of all images.
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
