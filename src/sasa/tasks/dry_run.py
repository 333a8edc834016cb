"""A few steps that leave nothing behind: what a step costs, also where the images of a known set are not at hand."""

import dataclasses
import time
from itertools import islice
from typing import Any

from sasa.data.sampler import EpochBatches
from sasa.tasks.registry import make_task
from sasa.tasks.stand_in import KnownSet, generated
from sasa.training.loop import Trainer
from sasa.training.memory import explained, keep_freed_memory, peak_memory_gb
from sasa.training.processes import make_fabric
from sasa.training.settings import Config
from sasa.training.task import Task

# Images: without a GPU, a part of a step for 8 GPUs would fill the memory.
CPU_PART = {"classification": 8, "detection": 2}


def time_steps(trainer: Trainer, steps: int) -> list[float]:
    """Take the first steps of a run in memory; seconds of each, waiting for images included."""
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


def on_generated(config: Config, known: KnownSet, steps: int) -> dict[str, Any]:
    """A dry run without the data: steps of one part each, their time scaled to whole steps of the recipe."""
    config.check()
    limit = getattr(config.data, "limit", 0)
    known = dataclasses.replace(known, training=min(known.training, limit or known.training))
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
    part = whole.part if fabric.device.type == "cuda" else min(whole.part, CPU_PART[config.TASK])
    recipe = dataclasses.replace(config.recipe, batch_size=part * fabric.world_size, accumulate=1)
    small = dataclasses.replace(config, recipe=recipe)
    if hasattr(config.data, "in_memory"):  # every image of the set would have to be there before the first step
        small.data = dataclasses.replace(config.data, in_memory=False)
    task = make_task(small, fabric, generated(config, known))
    seconds = time_steps(Trainer.start(small, fabric, task), steps)[-1]
    scale = whole.batch_size / (part * fabric.world_size)
    each = f" in each of {fabric.world_size} processes" if fabric.world_size > 1 else ""
    said = (
        f"GENERATED: there is no {config.data.source!r} here; {steps} steps of one part of {part} images{each}, "
        f"whose memory it is; the time is scaled to a step of {whole.batch_size}, without reading and decoding files"
    )
    return {"pictures": said, **report(task, seconds * scale, whole.steps)}
