"""The task of classification: labelled images, cross-entropy, accuracy."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.data.classification import Source, Subset, open_splits
from sasa.data.classification.batch import Batch, evaluation_loader, training_loader
from sasa.data.classification.in_memory import InMemoryImages
from sasa.data.classification.mixing import Mixing
from sasa.data.classification.transforms import Augmentation
from sasa.data.loader import shares
from sasa.data.sampler import epoch_order
from sasa.draw.attention import attention_layers
from sasa.draw.charts import Panel, draw_confusion, draw_curves, draw_predictions, points
from sasa.errors import SasaError, UsageError
from sasa.models import ResNet, create_model
from sasa.tasks.base import network_options, set_up
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.evaluation import Score, score_batches
from sasa.tasks.classification.predictor import Predictor
from sasa.training.processes import gather
from sasa.training.same_data import directory_of
from sasa.training.task import Task

SHOWN = 32  # images in the grid of predictions


class Classification(Task):
    """Labelled images of a config, or `splits` (training images, held-out images) in place of its data; its network.

    Raises:
        DataError, ArgumentError: invalid data or options of the network.
    """

    LOADER = staticmethod(training_loader)

    def __init__(self, config: TrainConfig, fabric: Any, splits: tuple[Source, Source] | None = None) -> None:
        splits = splits or open_training_data(config)
        super().__init__(config, fabric, splits, make_network(config, len(splits[0].classes)))
        recipe, counts = config.recipe, self.train.counts()
        self.chance = max(counts) / sum(counts)
        self.mixing = (
            Mixing(recipe.mixup, recipe.cutmix, len(self.train.classes), recipe.label_smoothing)
            if recipe.mixup or recipe.cutmix
            else None
        )
        self._memory: dict[int, InMemoryImages] = {}
        self._directory = directory_of(config.data.source)
        if config.data.in_memory:
            self._in_memory(self.train, config.data.augmentation())

    def batches(self, step: int) -> Iterator[Batch]:
        """Iterate over this process's augmented micro-batches from `step` on."""
        if not self.config.data.in_memory:
            return super().batches(step)
        return map(self._in_memory(self.train, self.config.data.augmentation()).training_batch, self.order(step))

    def _in_memory(self, source: Source, augmentation: Augmentation | None) -> InMemoryImages:
        """Return the images of a source, decoded once and kept for all epochs."""
        if id(source) not in self._memory:
            data, run = self.config.data, self.config.run
            self._memory[id(source)] = InMemoryImages(
                source, data.preprocessing(), augmentation, run.seed, self.fabric.device, data.on_bad_image
            )
        return self._memory[id(source)]

    def loss(self, model: nn.Module, batch: Batch, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Return the cross-entropy, and the number of correct predictions."""
        self.skipped.update(self.train.name(index) for index in batch.skipped)
        if not len(batch):
            return self._zero_loss(model), {"top1": 0}
        batch = batch.to(self.fabric.device, self.config.run.channels_last)
        if self.mixing:
            images, targets = self.mixing(batch.images, batch.labels, seed)
            logits = model(images).float()
            loss = F.cross_entropy(logits, targets)
        else:
            logits = model(batch.images).float()
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.config.recipe.label_smoothing)
        return loss, {"top1": (logits.argmax(1) == batch.labels).sum().item()}

    def _zero_loss(self, model: nn.Module) -> Tensor:
        """Return a loss without gradient, for a batch in which no image could be read: other processes wait for it."""
        data = self.config.data
        return 0 * model(torch.zeros(2, data.channels, data.image_size, data.image_size).to(self.fabric.device)).sum()

    def describe(self, images: Source, index: int) -> str:
        """Return the file name below the data's directory, and the class."""
        name = images.name(index).removeprefix(self._directory)
        return f"{name}: {images.classes[images.labels[index]]}"

    def score(self, model: nn.Module) -> Score:
        """Score the held-out images, each once over all processes."""
        channels_last, classes = self.config.run.channels_last, len(self.train.classes)
        score = score_batches(
            model, self._held_out_batches(), classes, self.fabric.device, channels_last, partial(gather, self.fabric)
        )
        self.skipped.update(self.held_out.name(index) for index in score.skipped)
        if not score.count:
            raise SasaError("none of the held-out images could be read")
        return score

    def _held_out_batches(self) -> Iterator[Batch]:
        data, rank, processes = self.config.data, self.fabric.global_rank, self.fabric.world_size
        size = 2 * self.part
        if data.in_memory:
            memory = self._in_memory(self.held_out, None)
            keys = shares(self.held_out, size, rank, processes)
            return (memory.evaluation_batch([index for _, index in part]) for part in keys)
        return evaluation_loader(
            self.held_out, data.preprocessing(), size, data.workers, data.on_bad_image, rank, processes
        )

    def summary(self, score: Score, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the accuracy at the end, and of the best epoch."""
        best = max(rows, key=lambda row: (row["held_out_top1"], -row["held_out_loss"]))
        return {
            **score.summary(),
            "held_out_drawn": isinstance(self.held_out, Subset),
            "best_top1": best["held_out_top1"],
            "best_epoch": best["epoch"],
        }

    def draw(self, score: Score, rows: list[dict[str, Any]], directory: Path) -> None:
        """Draw curves, the confusion matrix, a grid of held-out images with predictions, and attention over one."""
        draw_curves(learning_curves(rows), directory / "curves.png")
        draw_confusion(score.confusion, self.train.classes, directory / "confusion.png")
        predictor = Predictor(self.network, self.train.classes, self.config.data.preprocessing())
        source, shown = self.held_out, self.sample(SHOWN)
        images = [source.read(index, predictor.preprocessing.channels) for index in shown]
        predictions = predictor.predict([(source.name(i), p) for i, p in zip(shown, images, strict=True)], 1)
        draw_predictions(
            [predictor.preprocessing.square(image) for image in images],
            [prediction.labels[0] for prediction in predictions],
            [prediction.shares[0] for prediction in predictions],
            [source.classes[source.labels[index]] for index in shown],
            directory / "predictions.png",
        )
        if attention_layers(self.network):
            predictor.draw_attention(images[0], directory / "attention.png")


def learning_curves(rows: list[dict[str, Any]]) -> list[Panel]:
    """Make the curves of metrics.csv: loss and accuracy on the training set and the held-out images."""
    prefixes = {"training": "train", "held out": "held_out", "held out, weights of the last step": "last"}
    losses = {label: points(rows, f"{prefix}_loss") for label, prefix in prefixes.items()}
    accuracies = {label: points(rows, f"{prefix}_top1", 100) for label, prefix in prefixes.items()}
    return [Panel("cross-entropy", losses, logarithmic=True), Panel("top-1 accuracy, %", accuracies)]


def open_training_data(config: TrainConfig) -> tuple[Source, Source]:
    """Open the training and held-out images; with data.limit, only the first of a seeded order."""
    data, seed = config.data, config.run.seed
    train, held_out = open_splits(data.source, data.held_out, seed)
    if data.limit and data.limit < len(train):
        train = Subset(train, sorted(epoch_order(len(train), seed, -1)[: data.limit].tolist()))
        train.description = [*train.description, f"training: only {data.limit} of these images (data.limit)"]
    return train, held_out


def make_network(config: TrainConfig, num_classes: int) -> ResNet:
    """Make the config's network for the data's classes and channels, with seeded weights."""
    options = network_options(config, num_classes)
    torch.manual_seed(config.run.seed)
    name = config.model["name"]
    network = create_model(name, **{**options, "in_chans": config.data.channels})
    if not isinstance(network, ResNet):
        raise UsageError(f"{name} is a detector: train it with `sasa detect train`; sasa train is for classes")
    set_up(network, config)
    return network
