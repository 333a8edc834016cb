"""What every part works on: the maps of ResNet-50, operands of the operator, and what a call costs at least."""

from dataclasses import dataclass
from typing import Any

import torch
from gpu_ceilings import Ceilings
from gpu_device import Device
from torch import Tensor

from sasa.ops import flops as op_flops
from sasa.ops.arguments import LocalBackward, LocalForward, LocalInputs, LocalOptions
from sasa.speed import Setting
from sasa.speed.workloads import HEADS, WINDOW

GROUP_MAPS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, side: the four groups of ResNet-50 at 224 x 224
OPTIONS: dict[str, Any] = {"kernel_size": WINDOW, "num_heads": HEADS}


@dataclass(frozen=True)
class Bench:
    """What every part is given."""

    setting: Setting
    device: Device
    ceilings: Ceilings
    quick: bool = False


@dataclass(frozen=True)
class Operands:
    """q, k, v (views of one projection), both embeddings, and the gradient of the output; bfloat16, channels_last."""

    maps: list[Tensor]
    rels: list[Tensor]
    grad: Tensor


def title(channels: int, side: int) -> str:
    """A map in words."""
    return f"{side} x {side} x {channels}"


def operands(batch: int, channels: int, side: int, device: Device, seed: int = 0) -> Operands:
    """Random ones: 0.7 * normal."""
    generator = torch.Generator(device.name).manual_seed(seed)  # its own: a failed capture spoils torch's

    def random(*shape: int) -> Tensor:
        return 0.7 * torch.randn(*shape, device=device.name, generator=generator)

    whole, grad = (
        random(batch, width * channels, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
        for width in (3, 1)
    )
    rels = [random(HEADS, WINDOW, channels // HEADS // 2).bfloat16() for _ in range(2)]
    return Operands(list(whole.chunk(3, dim=1)), rels, grad)


def operand_sets(bench: Bench, channels: int, side: int) -> list[Operands]:
    """As many as it takes that none of them waits in the cache for its next turn."""
    batch = bench.setting.batch
    sets = bench.device.copies(4 * 2 * batch * channels * side**2)
    return [operands(batch, channels, side, bench.device, seed) for seed in range(sets)]


def cost(batch: int, channels: int, side: int, passed: str) -> tuple[int, int]:
    """FLOP of the equation, and bytes where every tensor is moved once: "forward", "backward" or both, with a +.

    Forward reads q, k, v and writes the output and its log-sum-exp; backward reads them (the log-sum-exp, not the
    output) and the output's gradient, and writes those of q, k, v. bfloat16, log-sum-exp float32.
    """
    qkv = torch.empty(batch, channels, side, side, device="meta")
    rel = torch.empty(HEADS, WINDOW, channels // HEADS // 2, device="meta")
    inputs, options = LocalInputs(qkv, qkv, qkv, rel, rel), LocalOptions(WINDOW, HEADS, "zeros", 1.0)
    one_map, sums = 2 * batch * channels * side**2, 4 * batch * HEADS * side**2
    costs = {
        "forward": (op_flops.local_attention(LocalForward(inputs, options)), 4 * one_map + sums),
        "backward": (
            op_flops.local_attention_backward(LocalBackward(qkv, inputs, qkv, options)),
            7 * one_map + sums,
        ),
    }
    chosen = [costs[name] for name in passed.split(" + ")]
    return sum(flops for flops, _ in chosen), sum(moved for _, moved in chosen)
