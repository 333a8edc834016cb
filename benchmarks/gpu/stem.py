"""The stem with batch norm, ReLU and pooling, beside the convolutional stem of ResNet-50."""

import functools

import torch
from torch import nn

from benchmarks.gpu.rows import Bench, Row, Values
from benchmarks.gpu.timing import Step, compare
from sasa.nn import AttentionStem


def rows(backend: str) -> list[Row]:
    """Training and inference."""
    return [
        Row(f"stem {word}, {backend}", functools.partial(stem, training=training), backend)
        for word, training in (("forward + backward", True), ("inference", False))
    ]


def stem(bench: Bench, training: bool) -> Values:
    """Milliseconds of our stem and of the convolution's, bfloat16 by autocast, replays of CUDA graphs."""
    side = 64 if bench.quick else 224
    images = torch.randn(bench.batch, 3, side, side, device=bench.device).contiguous(memory_format=torch.channels_last)
    ours = AttentionStem(3, 64, num_heads=4)
    theirs = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    )
    steps = {
        name: _step(module.to(bench.device, memory_format=torch.channels_last), images, training)  # pyright: ignore
        for name, module in {"attention": ours, "convolution": theirs}.items()
    }
    times = compare(steps, graphs=True)
    return {
        "attention, ms": times.median("attention"),
        "convolution, ms": times.median("convolution"),
        "ratio": times.ratio("attention", "convolution"),
        "graphs": times.graphs,
    }


def _step(module: nn.Module, images: torch.Tensor, training: bool) -> Step:
    module.train(training)

    def step() -> None:
        with torch.set_grad_enabled(training), torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            output = module(images)
        if training:
            torch.autograd.grad(output.float().sum(), list(module.parameters()), allow_unused=True)

    return step
