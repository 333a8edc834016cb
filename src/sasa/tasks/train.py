"""A whole training run: from a config to a folder with weights, numbers and images."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sasa.tasks.dry_run import on_generated, report, time_steps
from sasa.tasks.registry import config_of, make_task, with_own_weights
from sasa.tasks.stand_in import stand_in
from sasa.training.loop import Trainer
from sasa.training.memory import explained, keep_freed_memory, peak_memory_gb
from sasa.training.processes import leave, make_fabric, names_of_all
from sasa.training.progress import Progress
from sasa.training.reports import Reports
from sasa.training.run_directory import RunFolder
from sasa.training.settings import Config
from sasa.training.thread_count import restore_thread_count


def start(config: Config) -> Trainer:
    """All parts of a run, at step 0.

    Raises:
        UsageError, ArgumentError, DataError: what is wrong with the config, the network's options or the data.
    """
    config.check()
    fabric = make_fabric(config.run)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return Trainer.start(config, fabric, make_task(config, fabric))


def train(config: Config, path: Path) -> dict[str, Any] | None:
    """Train from the first step into a new folder; what summary.json says, in the first process."""
    trainer = start(config)  # before the folder: a mistake in the config leaves nothing behind
    folder = RunFolder(path)
    if trainer.fabric.is_global_zero:
        folder.create(config)
        for sentence in (*trainer.task.train.description, *trainer.task.held_out.description):
            sys.stderr.write(f"{sentence}\n")
    trainer.fabric.barrier()
    return _run(trainer, folder)


def resume(path: Path, changes: Sequence[tuple[str, Any]] = ()) -> dict[str, Any] | None:
    """Go on with a run at its last checkpoint that is whole; what summary.json says, in the first process.

    Args:
        path: of the run.
        changes: settings of where it runs, such as run.accelerator, that are not as they were.
    """
    folder = RunFolder(path)
    state, note = folder.load_checkpoint()
    config = with_own_weights(config_of(state["config"]))
    for key, value in changes:
        config.set(key, value)
    trainer = start(config)
    trainer.load_state(state)
    notes = [note, restore_thread_count(state.get("threads"))]
    trainer.fabric.barrier()  # all have read before the first one moves a file
    if trainer.fabric.is_global_zero:
        for sentence in filter(None, notes):
            sys.stderr.write(f"sasa: {sentence}\n")
        if note:
            folder.set_damaged_aside()
        folder.write_metrics(trainer.rows)
    return _run(trainer, folder)


def dry_run(config: Config, steps: int = 2) -> dict[str, Any]:
    """Build everything, take a few steps, write nothing; what a step costs.

    Without the data of a known set it takes them on generated images, and says so.
    """
    if known := stand_in(config):
        return on_generated(config, known, steps)
    trainer = start(config)
    task = trainer.task
    seconds = time_steps(trainer, steps)
    return report(task, seconds[-1] if seconds else 0.0, task.steps)


def _run(trainer: Trainer, folder: RunFolder) -> dict[str, Any] | None:
    task, fabric, first = trainer.task, trainer.fabric, trainer.fabric.is_global_zero
    began = time.monotonic()
    progress = Progress(task.steps, task.steps_per_epoch, trainer.step)
    reports = Reports(folder, progress, trainer.config.run, trainer.step, silent=not first)
    try:
        with explained(trainer.config.recipe):
            score = trainer.run(folder, reports)
    finally:
        reports.close()
    skipped = names_of_all(fabric, task.skipped)
    summary = None
    if first:
        summary = summarise(trainer, score, skipped, time.monotonic() - began)
        task.save(folder.path)
        folder.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
        if skipped:
            folder.write_text("skipped.txt", "".join(f"{name}\n" for name in skipped))
        task.skipped.update(skipped)  # also by other processes: what cannot be read cannot be drawn
        task.draw(score, trainer.rows, folder.path)
    leave(fabric)
    return summary


def summarise(trainer: Trainer, score: Any, skipped: list[str], seconds: float) -> dict[str, Any]:
    """What summary.json says: the score on the held-out images, cost, size."""
    task = trainer.task
    return {
        "model": trainer.config.model,
        "data": trainer.config.data.source,
        **task.summary(score, trainer.rows),
        "training_pictures": len(task.train),
        "skipped_pictures": len(skipped),
        "epochs": trainer.config.recipe.epochs,
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in task.network.parameters()),
        "spatial_convolutions": spatial_convolutions(task.network),
        "processes": trainer.fabric.world_size,
        "minutes": round(seconds / 60, 2),
        "peak_memory_gb": peak_memory_gb(),
    }


def spatial_convolutions(model: torch.nn.Module) -> int:
    """How many convolutions of the network have a kernel larger than 1."""
    return sum(isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1 for m in model.modules())
