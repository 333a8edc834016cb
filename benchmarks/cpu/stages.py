"""Profile of a network: time, FLOPs and bytes of its operations, summed by stage.

Operations are intercepted below autograd, in forward and backward alike. FLOPs come from the registered formulas; bytes
are those of all inputs and outputs of an operation, which it must move if nothing stays in a cache.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.cpu.setting import Setting
from benchmarks.cpu.workloads import SIDES, network, random_images, training_step
from sasa.speed import Step, spread

ROUNDS = 3
# The first word that occurs in the name of an operation decides its stage.
BY_NAME = (
    ("local_attention", "attention cores"),
    ("qkv_attention", "attention cores"),
    ("block_attention", "stem attention"),
    ("affine", "batch norm"),  # with the shortcut and ReLU, in one pass
    ("norm_relu", "batch norm"),
    ("pointwise_gradient", "gradients of 1 x 1 weights"),
    ("sasa::", "other sasa operations"),
    ("batch_norm", "batch norm"),
    ("pool", "pooling"),
    ("mm", "classifier and loss"),  # before "add": addmm
    ("relu", "ReLU and sums"),
    ("threshold", "ReLU and sums"),
    ("add", "ReLU and sums"),
    ("mean", "classifier and loss"),
    ("softmax", "classifier and loss"),
    ("loss", "classifier and loss"),
)


@dataclass
class Stage:
    """Cost of one stage for one image: milliseconds, FLOPs and bytes moved; and calls in the whole step."""

    name: str
    milliseconds: float = 0.0
    flops: float = 0.0
    moved: float = 0.0
    calls: float = 0.0


@dataclass(frozen=True)
class Profile:
    """Stages of one network in one pass, the slowest first."""

    side: str
    passed: str  # "inference" or "training step"
    stages: list[Stage]


class StageTimer(TorchDispatchMode):
    """Sums milliseconds, FLOPs, bytes and calls of all operations by stage, while entered."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, Stage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        began = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = time.perf_counter() - began
        name = stage_of(func._schema.name, args)
        stage = self.stages.setdefault(name, Stage(name))
        stage.milliseconds += 1000 * seconds
        stage.calls += 1
        if not func.is_view:
            stage.moved += _bytes((args, kwargs, result))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            stage.flops += formula(*args, **kwargs, out_val=result)
        return result


def stage_of(name: str, args: tuple) -> str:
    """Return the stage of an operation by its name ("aten::convolution"), of convolutions by the weights' shape."""
    if "convolution" in name:
        # convolution(input, weight, ...), convolution_backward(grad_output, input, weight, ...)
        out, into, *sides = args[2 if "backward" in name else 1].shape
        if max(sides) > 1:
            return "stem convolution" if into <= 4 else "spatial convolutions"
        # The gradient of an input may be a convolution with transposed weights.
        return "q, k, v projections" if max(out, into) == 3 * min(out, into) else "other 1 x 1 convolutions"
    return next((stage for word, stage in BY_NAME if word in name), "rest")


def _bytes(values: Any) -> int:
    """Sum the bytes of all tensors in a nest of values."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def stages_of(step: Step, images: int, rounds: int = ROUNDS) -> list[Stage]:
    """Profile a step over `images` images, for one image: medians over rounds, the slowest stage first."""
    step()
    seen: list[dict[str, Stage]] = []
    for _ in range(rounds):
        with StageTimer() as timer:
            step()
        seen.append(timer.stages)
    stages = [
        Stage(
            name,
            *(spread([getattr(one[name], number) for one in seen if name in one]).median / images
              for number in ("milliseconds", "flops", "moved", "calls")),
        )
        for name in {name: None for one in seen for name in one}
    ]  # fmt: skip
    for stage in stages:
        stage.calls *= images
    return sorted(stages, key=lambda stage: -stage.milliseconds)


def profiles(setting: Setting, sides: Iterable[str] = SIDES) -> list[Profile]:
    """Profile inference and training step of every side, eager, float32."""
    images, labels = random_images(setting)
    found = []
    for side in sides:
        model = network(side, setting).eval()

        def forward(model: torch.nn.Module = model) -> None:
            with torch.no_grad():  # inference mode would pass composite operations
                model(images)

        found.append(Profile(side, "inference", stages_of(forward, setting.batch)))
        step = training_step(model, images, labels)
        found.append(Profile(side, "training step", stages_of(step, setting.batch)))
    return found
