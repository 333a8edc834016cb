"""Layers: the stem with norm, ReLU and pooling beside ResNet-50's, and the host's time to launch a layer."""

import functools

import torch
from torch import Tensor, nn

from benchmarks.gpu.rows import Bench, Row, Values
from benchmarks.gpu.shapes import HEADS, WINDOW, Layer, operands
from benchmarks.gpu.timing import Step, compare, host_milliseconds
from sasa.nn import AttentionStem, LocalAttention2d
from sasa.ops import local_attention

LAUNCHED = Layer(64, 7, 1)  # so small that the GPU waits


def stem_rows(backend: str) -> list[Row]:
    """The stem in training and inference."""
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


def launching_rows(backend: str) -> list[Row]:
    """The host's time to launch a layer from Python."""
    return [Row(f"launching, {backend}", launching, backend)]


def launching(bench: Bench) -> Values:
    """Milliseconds until a call has returned: an addition, the operator, the layer; forward, and with backward."""
    inputs, grad_output = operands(LAUNCHED, 1, bench.device)
    given = [t.detach() for t in inputs if t is not None]
    leaves = [t.detach().requires_grad_() for t in given]
    layer = LocalAttention2d(64, 64, WINDOW, num_heads=HEADS).to(bench.device, torch.bfloat16)
    parameters = list(layer.parameters())

    def operator(tensors: list[Tensor]) -> Tensor:
        return local_attention(*tensors, kernel_size=WINDOW, num_heads=HEADS)  # pyright: ignore[reportArgumentType]

    def inference() -> None:
        with torch.inference_mode():
            layer(grad_output)

    steps = {
        "addition": lambda: torch.add(grad_output, grad_output),
        "operator": lambda: operator(given),
        "operator with backward": lambda: torch.autograd.grad(operator(leaves), leaves, grad_output),
        "layer, inference": inference,
        "layer with backward": lambda: torch.autograd.grad(layer(grad_output), parameters, grad_output),
    }
    return {f"{name}, ms": host_milliseconds(step) for name, step in steps.items()}
