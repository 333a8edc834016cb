"""The attention layers of ResNet-50 and operands of their shapes."""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.rows import Bench
from sasa.ops.arguments import BlockInputs, LocalInputs, LocalOptions

HEADS, WINDOW = 8, 7
CACHE = 3 * 64 * 2**20  # bytes of operands that no L2 cache of today holds
OPTIONS = LocalOptions(WINDOW, HEADS, "zeros", 1.0)


class Layer(NamedTuple):
    """Attention layers of one shape: channels, side of the map, and how many of them ResNet-50 has at 224 x 224.

    Layers with stride 2 attend at full resolution and pool afterwards.
    """

    channels: int
    side: int
    count: int

    def __str__(self) -> str:
        return f"{self.side} x {self.side} x {self.channels}"


LAYERS = (
    Layer(64, 56, 3), Layer(128, 56, 1), Layer(128, 28, 3), Layer(256, 28, 1), Layer(256, 14, 5), Layer(512, 14, 1),
    Layer(512, 7, 2),
)  # fmt: skip


class Operands(NamedTuple):
    """q, k and v as views of one channels_last projection, float32 tables, and the gradient of the output."""

    inputs: LocalInputs
    grad_output: Tensor


def operands(layer: Layer, batch: int, device: str, seed: int = 0) -> Operands:
    """Random operands, 0.7 * normal."""
    generator = torch.Generator(device).manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 0.7 * torch.randn(*shape, device=device, generator=generator)

    channels, side, _ = layer
    whole, grad = (
        random(batch, parts * channels, side, side).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        for parts in (3, 1)
    )
    tables = [random(HEADS, WINDOW, channels // HEADS // 2) for _ in range(2)]
    return Operands(LocalInputs(*whole.chunk(3, dim=1), *tables), grad)


def operand_sets(layer: Layer, bench: Bench) -> list[Operands]:
    """As many operands as it takes to exceed the cache, so that no call finds its own there."""
    moved = 8 * bench.batch * layer.channels * layer.side**2  # bytes of q, k, v and the output
    copies = min(8, -(-CACHE // moved)) if bench.on_gpu else 1
    return [operands(layer, bench.batch, bench.device, seed) for seed in range(copies)]


def stem_inputs(batch: int, height: int, width: int, dtype: torch.dtype) -> tuple[BlockInputs, Tensor]:
    """The stem of ResNet-50 (64 channels, 4 heads, blocks of 4 x 4) on the CPU, and the signs of its batch norm."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 0.7 * torch.randn(*shape, generator=generator)

    image = random(batch, 3, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    weights = [random(64, 3), random(64, 3), random(16, 64, 3), random(4, 7, 8), random(4, 7, 8)]
    sign = torch.tensor([1.0, -1.0]).repeat(32)
    return BlockInputs(image, *weights, None), sign
