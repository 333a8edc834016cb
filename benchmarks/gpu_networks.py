"""Whole networks beside ResNet-50: a training step without the optimizer, and inference; eager and compiled."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from gpu_device import Device
from gpu_run import Line, Row
from gpu_shapes import Bench
from gpu_warm import warm
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sasa.models import create_model
from sasa.speed import Setting, spread
from sasa.speed.timing import Step, ratios
from sasa.speed.workloads import BASELINE, CLASSES, SIDES, network, random_images

TRAINING, INFERENCE = "training", "inference"


def networks(bench: Bench) -> list[Row]:
    """Whole networks beside torchvision's resnet50: a training step without the optimizer, and inference."""
    large, small = bench.setting.batch, max(1, bench.setting.batch // 4)
    # What was asked for comes first; each compiled row costs the most.
    order = [(True, large), (False, large), (False, small), (True, small)]
    rows = [
        Row(
            {"pass": passed, "compiled": compiled, "batch": batch},
            functools.partial(beside_baseline, bench, passed, compiled, batch),
        )
        for compiled, batch in order
        if not (compiled and bench.quick)
        for passed in (TRAINING, INFERENCE)
    ]
    if not bench.device.cuda:
        return rows
    cases = [(side, batch, passed) for passed in (TRAINING, INFERENCE) for batch in (large, small) for side in SIDES]
    return [Row({"pass": "compiling, several at a time"}, functools.partial(compile_ahead, bench, cases)), *rows]


def compile_ahead(bench: Bench, cases: Sequence[tuple[str, int, str]]) -> list[Line]:
    """Fill the cache of compiled networks from several processes: no measurement."""
    bench.device.release()
    return [{"note": warm(cases, bench.setting)}]


def beside_baseline(bench: Bench, passed: str, compiled: bool, batch: int) -> list[Line]:
    """A line for each network."""
    sizes, device = replace(bench.setting, batch=batch), bench.device
    if compiled:
        torch._dynamo.reset()  # 8 variants of a function, no more
    images, labels = (tensor.to(device.name) for tensor in random_images(sizes))
    models = {side: NetworkStep(side, sizes, images, labels, passed, compiled) for side in SIDES}
    steps: dict[str, Step] = dict(models)
    times = device.compare(steps, bench.setting)
    peaks = {side: device.peak(model, model.clear) for side, model in models.items()}
    base = peaks[BASELINE]
    lines = []
    for side in SIDES:
        ratio, peak = spread(ratios(times[side].milliseconds, times[BASELINE].milliseconds)), peaks[side]
        lines.append(
            {
                "network": side,
                "ms": times[side].median,
                "pictures/s": 1000 * batch / times[side].median,
                "ratio": ratio.median,
                "from": ratio.lower,
                "to": ratio.upper,
                "host ms": times[side].host,
                **bench.ceilings.columns(flops(side, sizes, passed), None, times[side].median),
                "GB": peak,
                "memory, ratio": peak / base if base and peak else None,
                "note": baseline()[1] if side == BASELINE else None,
            }
        )
    return lines


@functools.cache
def baseline() -> tuple[str, str]:
    """Whose ResNet-50 it is: "torchvision" or "sasa", and a sentence."""
    try:
        import torchvision.models.resnet
    except Exception as reason:  # missing, or built for another torch
        return "sasa", f"sasa's own resnet50: torchvision cannot be imported ({type(reason).__name__})"
    return "torchvision", f"torchvision {torchvision.__version__}'s resnet50"


def make(side: str, sizes: Setting) -> nn.Module:
    """A side's network; without torchvision the library's own resnet50 is the baseline."""
    if side != BASELINE or baseline()[0] == "torchvision":
        return network(side, sizes)
    torch.manual_seed(0)
    model = create_model("resnet50", layers=sizes.layers, num_classes=CLASSES, zero_init_residual=False)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class NetworkStep:
    """Forward in bfloat16 by autocast, and in training cross-entropy and backward."""

    def __init__(self, side: str, sizes: Setting, images: Tensor, labels: Tensor, passed: str, compiled: bool) -> None:
        self.training, self.images, self.labels = passed == TRAINING, images, labels
        self.model: Any = make(side, sizes).to(images.device).train(self.training)
        self.run: Any = torch.compile(self.model, dynamic=False) if compiled else self.model

    def __call__(self) -> None:
        """The step."""
        with torch.autocast(self.images.device.type, torch.bfloat16):
            if not self.training:
                with torch.inference_mode():
                    self.run(self.images)
                return
            self.clear()
            loss = F.cross_entropy(self.run(self.images), self.labels)
        loss.backward()

    def clear(self) -> None:
        """No gradients: those of the step before are not there when memory is counted."""
        self.model.zero_grad(set_to_none=True)


def flops(side: str, sizes: Setting, passed: str) -> float:
    """FLOP of the step's products and convolutions, counted on pictures that have no numbers."""
    return sizes.batch * _flops_of_two(side, replace(sizes, batch=2), passed) / 2


@functools.cache
def _flops_of_two(side: str, sizes: Setting, passed: str) -> int:
    with torch.device("meta"):
        model = make(side, sizes).train(passed == TRAINING)
        images = torch.empty(2, 3, sizes.side, sizes.side)  # batch norm wants more than one number
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(passed == TRAINING):
        output = model(images)
        if passed == TRAINING:
            output.sum().backward()
    return counter.get_total_flops()


def compile_one(side: str, sizes: Setting, passed: str, device: Device) -> None:
    """Compile a network and run it once: what a process of `gpu_warm` does."""
    torch._dynamo.reset()
    images, labels = (tensor.to(device.name) for tensor in random_images(sizes))
    NetworkStep(side, sizes, images, labels, passed, compiled=True)()
    device.wait()
