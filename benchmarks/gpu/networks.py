"""Whole networks beside torchvision's ResNet-50: a training step without the optimizer, and inference."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.rows import Bench, Row, Values
from benchmarks.gpu.timing import compare, host_milliseconds, peak_gigabytes
from sasa.models import create_model

BASELINE = "resnet50"
OURS = {"full": "sasa_resnet50", "conv-stem": "sasa_resnet50_convstem"}
CLASSES = 1000
# (training, compiled, divisor of the batch), what matters most first; a network is compiled anew in each compiled row.
ORDER = ((True, True, 1), (False, True, 1), (True, False, 4), (False, False, 4), (True, False, 1), (False, False, 1))
TRITON_ORDER = ORDER[:4]
COMPILING = 120.0  # seconds of a compiled row


def rows(backend: str) -> list[Row]:
    """A row for each kind of step and each of our networks."""
    order = ORDER if backend == "cuda" else TRITON_ORDER
    sides = OURS if backend == "cuda" else ["full"]
    return [
        Row(
            name(backend, side, training, compiled, part),
            functools.partial(
                beside_baseline, side=side, training=training, compiled=compiled, part=part
            ),
            backend,
            COMPILING if compiled else 60.0,
        )
        for training, compiled, part in order
        for side in sides
    ]  # fmt: skip


def name(backend: str, side: str, training: bool, compiled: bool, part: int = 1) -> str:
    """Of a row; `part` is the divisor of the batch."""
    how = "compiled" if compiled else "eager"
    batch = "" if part == 1 else f", batch / {part}"
    return f"network {side}, {'training' if training else 'inference'}, {how}{batch}, {backend}"


def beside_baseline(bench: Bench, side: str, training: bool, compiled: bool, part: int) -> Values:
    """Milliseconds of a step of our network and of ResNet-50's, their ratio, and the ratio of peak memory."""
    batch, pixels = max(2, bench.batch // part), 64 if bench.quick else 224
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    torch._dynamo.reset()
    steps = {
        which: NetworkStep(which, bench, images.to(bench.device), labels.to(bench.device), training, compiled)
        for which in (BASELINE, side)
    }
    times = compare(dict(steps), seconds=8)
    peaks = {which: peak_gigabytes(step, step.clear) for which, step in steps.items()}
    base, ours = peaks[BASELINE], peaks[side]
    return {
        "batch": batch,
        "ms": times.median(side),
        "resnet50, ms": times.median(BASELINE),
        "ratio": times.ratio(side, BASELINE),
        "GB": ours,
        "memory, ratio": ours / base if ours and base else None,
        "host, ms": host_milliseconds(steps[side], 1, 3),
    }


def make(which: str, quick: bool) -> nn.Module:
    """A network with random weights, channels_last; ours without the zero gamma that torchvision's does not have."""
    torch.manual_seed(0)
    layers = (1, 1, 1, 1) if quick else (3, 4, 6, 3)
    if which == BASELINE:
        from torchvision.models.resnet import Bottleneck, ResNet

        model = ResNet(Bottleneck, list(layers), num_classes=CLASSES)
    else:
        model = create_model(OURS[which], layers=layers, num_classes=CLASSES, zero_init_residual=False)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class NetworkStep:
    """Forward in bfloat16 by autocast; in training, cross-entropy and backward too."""

    def __init__(
        self, which: str, bench: Bench, images: Tensor, labels: Tensor, training: bool, compiled: bool
    ) -> None:
        self.training, self.images, self.labels = training, images, labels
        self.model: Any = make(which, bench.quick).to(images.device).train(training)
        self.run: Any = torch.compile(self.model, dynamic=False) if compiled and bench.on_gpu else self.model

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
        """Drop the gradients of the step before."""
        self.model.zero_grad(set_to_none=True)
