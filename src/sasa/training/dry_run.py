"""A few steps that leave nothing behind: what a step costs, also where the pictures of a known set are not at hand.

A config that names "imagenet" or "cifar10" where no such folder is gets generated pictures: as many as the set has, of
the size that the network sees. Any other path that is not there stays an error: it is more likely a typing mistake.
"""

import dataclasses
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sasa.data.sampler import EpochBatches
from sasa.data.sources import Source
from sasa.training.classification import Classification, make_network
from sasa.training.config import TrainConfig
from sasa.training.loop import Trainer
from sasa.training.memory import explained, keep_freed_memory, peak_memory_gb
from sasa.training.processes import make_fabric
from sasa.training.task import Task

CPU_PART = 8  # pictures: without a GPU, a part of a step for 8 GPUs would fill the memory


@dataclass(frozen=True)
class KnownSet:
    """What is known of a data set without having it: classes, pictures to train on, pictures to score."""

    classes: int
    training: int
    held_out: int


KNOWN_SETS = {"imagenet": KnownSet(1000, 1_281_167, 50_000), "cifar10": KnownSet(10, 50_000, 10_000)}


def stand_in(source: str) -> KnownSet | None:
    """The set whose pictures have to be generated, because `source` is its bare name and nothing is there."""
    return None if Path(source).exists() else KNOWN_SETS.get(source)


class GeneratedPictures(Source):
    """Noise with labels in turn: for the cost of a step, not for learning."""

    def __init__(self, classes: int, count: int, side: int) -> None:
        self.classes = [str(number) for number in range(classes)]
        self.labels = [number % classes for number in range(count)]
        self.noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The noise, shifted by `index`."""
        return Image.fromarray(np.roll(self.noise, index, 0)).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """For messages."""
        return f"generated picture {index}"


class OnGenerated(Classification):
    """The task of a config on generated pictures: its network, its steps, its augmentation."""

    def __init__(self, config: TrainConfig, fabric: Any, known: KnownSet) -> None:
        self.config, self.fabric = config, fabric
        side = config.data.image_size
        self.train = GeneratedPictures(known.classes, known.training, side)
        self.held_out = GeneratedPictures(known.classes, known.held_out, side)
        self.network = make_network(config, known.classes)
        self.mixing, self.skipped = None, set()
        order = self._order(0)
        self.steps_per_epoch, self.steps = order.steps_per_epoch, order.steps


def time_steps(trainer: Trainer, steps: int) -> list[float]:
    """Take the first steps of a run in memory; seconds of each, waiting for pictures included."""
    task, accumulate = trainer.task, trainer.config.recipe.accumulate
    parts, seconds = task.batches(0), []
    trainer.model.train()
    with explained(trainer.config.recipe):
        for _ in range(min(steps, task.steps)):
            began = time.perf_counter()
            trainer.train_step(islice(parts, accumulate))
            seconds.append(time.perf_counter() - began)
    return seconds


def report(task: Task, seconds: float, steps: int) -> dict[str, Any]:
    """What a dry run prints: sizes, the cost of a step, and of `steps` of them."""
    return {
        "parameters": sum(p.numel() for p in task.network.parameters()),
        "training_pictures": len(task.train),
        "held_out_pictures": len(task.held_out),
        "classes": len(task.train.classes),
        "steps": steps,
        "seconds_per_step": round(seconds, 3),
        "estimated_hours": round(seconds * steps / 3600, 2),
        "peak_memory_gb": peak_memory_gb(),
    }


def on_generated(config: TrainConfig, known: KnownSet, steps: int) -> dict[str, Any]:
    """A dry run without the data: steps of one part each, their time scaled to whole steps of the recipe."""
    config.check()
    fabric = make_fabric(config.run)
    if fabric.device.type == "cpu":
        keep_freed_memory()  # as a run does
    whole = EpochBatches(
        known.training,
        config.recipe.batch_size,
        config.recipe.epochs,
        0,
        world_size=fabric.world_size,
        accumulate=config.recipe.accumulate,
    )
    part = whole.part if fabric.device.type == "cuda" else min(whole.part, CPU_PART)
    recipe = dataclasses.replace(config.recipe, batch_size=part * fabric.world_size, accumulate=1)
    # In memory, every picture of the set would have to be there before the first step.
    data = dataclasses.replace(config.data, in_memory=False)
    small = dataclasses.replace(config, recipe=recipe, data=data)
    task = OnGenerated(small, fabric, known)
    seconds = time_steps(Trainer.start(small, fabric, task), steps)[-1]
    scale = whole.batch_size / (part * fabric.world_size)
    each = f" in each of {fabric.world_size} processes" if fabric.world_size > 1 else ""
    said = (
        f"GENERATED: there is no {config.data.source!r} here; {steps} steps of one part of {part} pictures{each}, "
        f"whose memory it is; the time is scaled to a step of {whole.batch_size}, without reading and decoding files"
    )
    return {"pictures": said, **report(task, seconds * scale, whole.steps)}
