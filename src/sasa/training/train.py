"""A whole training run: from a config to a folder with weights, numbers and pictures."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sasa.analysis.attention_maps import attention_layers
from sasa.analysis.pictures import draw_curves, draw_predictions
from sasa.data.sampler import epoch_order
from sasa.training.config import TrainConfig
from sasa.training.evaluate import Score
from sasa.training.loop import Trainer
from sasa.training.predictor import Predictor, preprocessing_to
from sasa.training.progress import Progress
from sasa.training.run_folder import RunFolder

SHOWN = 32  # pictures in the grid of predictions


def train(config: TrainConfig, path: Path) -> dict[str, Any]:
    """Train from the first step into a new folder; what summary.json says."""
    trainer = Trainer.start(config)  # before the folder: a mistake in the config leaves nothing behind
    folder = RunFolder(path)
    folder.create(config)
    return _run(trainer, folder)


def resume(path: Path) -> dict[str, Any]:
    """Go on with a run at its last checkpoint."""
    folder = RunFolder(path)
    state = folder.load_checkpoint()
    trainer = Trainer.start(TrainConfig.from_dict(state["config"]))
    trainer.load_state(state)
    folder.write_metrics(trainer.rows)
    return _run(trainer, folder)


def dry_run(config: TrainConfig, steps: int = 2) -> dict[str, Any]:
    """Build everything, take a few steps, write nothing; what a step costs."""
    from sasa.data.loader import TrainingPictures, training_loader

    trainer = Trainer.start(config)
    data, batches = config.data, trainer.batches
    pictures = TrainingPictures(trainer.train, data.preprocessing(), data.augmentation(), config.run.seed)
    trainer.model.train()
    began, last = time.monotonic(), 0.0
    for _, (tensors, labels) in zip(range(steps), training_loader(pictures, batches, 0), strict=False):
        trainer.train_step(tensors, labels, batches.steps_per_epoch)
        last, began = time.monotonic() - began, time.monotonic()
    return {
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "training_pictures": len(trainer.train),
        "held_out_pictures": len(trainer.held_out),
        "classes": len(trainer.train.classes),
        "steps": len(batches),
        "seconds_per_step": round(last, 3),
        "estimated_hours": round(last * len(batches) / 3600, 2),
        "peak_memory_gb": peak_memory_gb(),
    }


def _run(trainer: Trainer, folder: RunFolder) -> dict[str, Any]:
    batches = trainer.batches
    total = batches.steps_per_epoch * trainer.config.recipe.epochs
    began = time.monotonic()
    score = trainer.run(folder, Progress(total, batches.steps_per_epoch, trainer.step))
    summary = summarise(trainer, score, time.monotonic() - began)
    trainer.network.save_pretrained(
        folder.path,
        labels=trainer.train.classes,
        preprocessing=preprocessing_to(trainer.config.data.preprocessing()),
    )
    folder.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
    draw(trainer, folder)
    return summary


def summarise(trainer: Trainer, score: Score, seconds: float) -> dict[str, Any]:
    """What summary.json says: accuracy on the held-out pictures, cost, size."""
    return {
        "model": trainer.config.model,
        "data": trainer.config.data.source,
        "held_out_top1": round(score.top1, 6),
        "held_out_top5": round(score.top5, 6),
        "held_out_loss": round(score.loss, 6),
        "held_out_pictures": score.count,
        "training_pictures": len(trainer.train),
        "epochs": trainer.config.recipe.epochs,
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "spatial_convolutions": spatial_convolutions(trainer.network),
        "minutes": round(seconds / 60, 2),
        "peak_memory_gb": peak_memory_gb(),
    }


def spatial_convolutions(model: torch.nn.Module) -> int:
    """How many convolutions of the network have a kernel larger than 1."""
    return sum(isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1 for m in model.modules())


def peak_memory_gb() -> float:
    """Most memory that this process held, in GB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def draw(trainer: Trainer, folder: RunFolder) -> None:
    """Curves, a grid of held-out pictures with predictions, and attention over one of them."""
    draw_curves(trainer.rows, folder.path / "curves.png")
    predictor = Predictor(trainer.network, trainer.train.classes, trainer.config.data.preprocessing())
    source, channels = trainer.held_out, predictor.preprocessing.channels
    shown = epoch_order(len(source), trainer.config.run.seed, 0)[:SHOWN].tolist()
    pictures = [source.read(index, channels) for index in shown]
    predictions = predictor.predict([(source.name(i), p) for i, p in zip(shown, pictures, strict=True)], top=1)
    draw_predictions(
        [predictor.preprocessing.square(picture) for picture in pictures],
        [prediction.labels[0] for prediction in predictions],
        [prediction.shares[0] for prediction in predictions],
        [source.classes[source.labels[index]] for index in shown],
        folder.path / "predictions.png",
    )
    if attention_layers(trainer.network):
        predictor.draw_attention(pictures[0], folder.path / "attention.png")
