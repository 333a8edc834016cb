"""Dry runs: measure the cost of a few steps without writing anything, on generated images if the data is missing."""

import dataclasses
import time
from itertools import islice
from pathlib import Path
from typing import Any

from sasa.data.sampler import EpochBatches
from sasa.tasks.base import KnownSet
from sasa.tasks.registry import TASKS, make_task
from sasa.training.loop import Trainer
from sasa.training.memory import batch_size_errors, keep_freed_memory, peak_memory_gb
from sasa.training.processes import make_fabric
from sasa.training.settings import Config
from sasa.training.task import Task


def time_steps(trainer: Trainer, steps: int) -> list[float]:
    """Take the first steps of a run in memory; return the seconds of each, including the wait for images."""
    task, accumulate = trainer.task, trainer.config.recipe.accumulate
    batches, seconds = task.batches(0), []
    trainer.model.train()
    with batch_size_errors(trainer.config.recipe, task.part):
        for _ in range(min(steps, task.steps)):
            began = time.perf_counter()
            trainer.train_step(islice(batches, accumulate))
            seconds.append(time.perf_counter() - began)
    return seconds


def report(task: Task, seconds: float, steps: int) -> dict[str, Any]:
    """Return the report of a dry run: sizes, the cost of a step, and of `steps` steps."""
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


def stand_in(config: Config) -> KnownSet | None:
    """Return the known set whose bare name is the config's data if no such directory exists, else None.

    Any other missing path is an error: it is more likely a typing mistake.
    """
    source = config.data.source
    return None if Path(source).exists() else TASKS[config.TASK].known_sets.get(source)


def on_generated(config: Config, known: KnownSet, steps: int) -> dict[str, Any]:
    """Do a dry run without the data: steps of one micro-batch each, their time scaled to the recipe's steps."""
    config.check()
    fabric, package = make_fabric(config.run), TASKS[config.TASK]
    if fabric.device.type == "cpu":
        keep_freed_memory()  # as a run does
    splits = package.generate(known, config)
    whole = EpochBatches(
        len(splits[0]),
        config.recipe.batch_size,
        config.recipe.epochs,
        0,
        world_size=fabric.world_size,
        accumulate=config.recipe.accumulate,
    )
    part = whole.part if fabric.device.type == "cuda" else min(whole.part, package.cpu_part)
    small = config.without_images_in_memory()
    small.recipe = dataclasses.replace(config.recipe, batch_size=part * fabric.world_size, accumulate=1)
    task = make_task(small, fabric, splits)
    seconds = time_steps(Trainer.start(small, fabric, task), steps)[-1]
    scale = whole.batch_size / (part * fabric.world_size)
    each = f" in each of {fabric.world_size} processes" if fabric.world_size > 1 else ""
    sentence = (
        f"GENERATED: {config.data.source!r} is not here; {steps} steps of one part of {part} images{each}; "
        f"the memory is that of one part; the time is scaled to a step of {whole.batch_size}, without reading files"
    )
    return {"pictures": sentence, **report(task, seconds * scale, whole.steps)}
