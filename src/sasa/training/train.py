"""A whole training run: from a config to a folder with weights, numbers and pictures."""

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sasa.analysis.attention_maps import attention_layers
from sasa.analysis.confusion import draw_confusion
from sasa.analysis.pictures import draw_curves, draw_predictions
from sasa.data.sampler import epoch_order
from sasa.training.classification import Classification
from sasa.training.config import TrainConfig
from sasa.training.dry_run import on_generated, report, stand_in, time_steps
from sasa.training.evaluate import Score
from sasa.training.loop import Trainer
from sasa.training.memory import explained, keep_freed_memory, peak_memory_gb
from sasa.training.predictor import Predictor
from sasa.training.processes import leave, make_fabric, names_of_all
from sasa.training.progress import Progress
from sasa.training.reports import Reports
from sasa.training.run_folder import RunFolder

SHOWN = 32  # pictures in the grid of predictions


def start(config: TrainConfig) -> Trainer:
    """All parts of a run, at step 0.

    Raises:
        UsageError, ArgumentError, DataError: what is wrong with the config, the network's options or the data.
    """
    config.check()
    fabric = make_fabric(config.run)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return Trainer.start(config, fabric, Classification(config, fabric))


def train(config: TrainConfig, path: Path) -> dict[str, Any] | None:
    """Train from the first step into a new folder; what summary.json says, in the first process."""
    trainer = start(config)  # before the folder: a mistake in the config leaves nothing behind
    folder = RunFolder(path)
    if trainer.fabric.is_global_zero:
        folder.create(config)
    trainer.fabric.barrier()
    return _run(trainer, folder)


def resume(path: Path) -> dict[str, Any] | None:
    """Go on with a run at its last checkpoint that is whole; what summary.json says, in the first process."""
    folder = RunFolder(path)
    state, note = folder.load_checkpoint()
    trainer = start(TrainConfig.from_dict(state["config"]))
    trainer.load_state(state)
    trainer.fabric.barrier()  # all have read before the first one moves a file
    if trainer.fabric.is_global_zero:
        if note:
            sys.stderr.write(f"sasa: {note}\n")
            folder.set_damaged_aside()
        folder.write_metrics(trainer.rows)
    return _run(trainer, folder)


def dry_run(config: TrainConfig, steps: int = 2) -> dict[str, Any]:
    """Build everything, take a few steps, write nothing; what a step costs.

    Without the data of a known set it takes them on generated pictures, and says so.
    """
    if known := stand_in(config.data.source):
        return on_generated(config, known, steps)
    trainer = start(config)
    task = trainer.task
    assert isinstance(task, Classification)
    seconds = time_steps(trainer, steps)
    return report(task, seconds[-1] if seconds else 0.0, task.steps)


def _run(trainer: Trainer, folder: RunFolder) -> dict[str, Any] | None:
    task, fabric, first = trainer.task, trainer.fabric, trainer.fabric.is_global_zero
    assert isinstance(task, Classification)
    began = time.monotonic()
    progress = Progress(task.steps, task.steps_per_epoch, trainer.step)
    reports = Reports(folder, progress, trainer.config.run, trainer.step, silent=not first)
    try:
        with explained(trainer.config.recipe):
            score = trainer.run(folder, reports)
    finally:
        reports.close()
    assert isinstance(score, Score)
    skipped = names_of_all(fabric, task.skipped)
    summary = None
    if first:
        summary = summarise(trainer, task, score, skipped, time.monotonic() - began)
        task.save(folder.path)
        folder.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
        if skipped:
            folder.write_text("skipped.txt", "".join(f"{name}\n" for name in skipped))
        draw(trainer, task, score, folder)
    leave(fabric)
    return summary


def summarise(
    trainer: Trainer, task: Classification, score: Score, skipped: list[str], seconds: float
) -> dict[str, Any]:
    """What summary.json says: accuracy on the held-out pictures, cost, size."""
    best = max(trainer.rows, key=lambda row: (row["held_out_top1"], -row["held_out_loss"]))
    return {
        "model": trainer.config.model,
        "data": trainer.config.data.source,
        "held_out_top1": round(score.top1, 6),
        "held_out_top5": round(score.top5, 6),
        "held_out_loss": round(score.loss, 6),
        "held_out_pictures": score.count,
        "best_top1": best["held_out_top1"],
        "best_epoch": best["epoch"],
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


def draw(trainer: Trainer, task: Classification, score: Score, folder: RunFolder) -> None:
    """Curves, the confusion matrix, a grid of held-out pictures with predictions, and attention over one of them."""
    draw_curves(trainer.rows, folder.path / "curves.png")
    draw_confusion(score.confusion, task.train.classes, folder.path / "confusion.png")
    predictor = Predictor(task.network, task.train.classes, trainer.config.data.preprocessing())
    source, channels = task.held_out, predictor.preprocessing.channels
    unread = set(score.skipped)
    order = epoch_order(len(source), trainer.config.run.seed, 0).tolist()
    shown = list(islice((index for index in order if index not in unread), SHOWN))
    pictures = [source.read(index, channels) for index in shown]
    predictions = predictor.predict([(source.name(i), p) for i, p in zip(shown, pictures, strict=True)], top=1)
    draw_predictions(
        [predictor.preprocessing.square(picture) for picture in pictures],
        [prediction.labels[0] for prediction in predictions],
        [prediction.shares[0] for prediction in predictions],
        [source.classes[source.labels[index]] for index in shown],
        folder.path / "predictions.png",
    )
    if attention_layers(task.network):
        predictor.draw_attention(pictures[0], folder.path / "attention.png")
