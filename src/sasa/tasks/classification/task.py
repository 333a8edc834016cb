"""The task of classification: labelled images, cross-entropy, accuracy."""

from collections.abc import Iterator
from itertools import islice
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
from sasa.data.loader import check_on_bad_image, shares
from sasa.data.sampler import EpochBatches, epoch_order
from sasa.draw.attention import attention_layers
from sasa.draw.charts import Panel, draw_curves, draw_predictions, points
from sasa.draw.confusion import draw_confusion
from sasa.errors import SasaError, UsageError
from sasa.models import ResNet, create_model
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.predictor import Predictor, preprocessing_to
from sasa.tasks.classification.score import Score, evaluate
from sasa.training.task import order_of

SHOWN = 32  # images in the grid of predictions


class Classification:
    """Opens the data of a config and makes its network.

    Args:
        config: of the run.
        fabric: Lightning Fabric, launched.
        images: to train on and to score, in place of the config's own.

    Raises:
        DataError, ArgumentError: what is wrong with the data or the network's options.
    """

    def __init__(self, config: TrainConfig, fabric: Any, images: tuple[Source, Source] | None = None) -> None:
        self.config, self.fabric = config, fabric
        self.train, self.held_out = images or open_training_data(config)
        self.network = make_network(config, len(self.train.classes))
        recipe = config.recipe
        self.mixing = (
            Mixing(recipe.mixup, recipe.cutmix, len(self.train.classes), recipe.label_smoothing)
            if recipe.mixup or recipe.cutmix
            else None
        )
        order = self._order(0)
        self.steps_per_epoch, self.steps = order.steps_per_epoch, order.steps
        self.skipped: set[str] = set()
        self._memory: dict[int, InMemoryImages] = {}
        check_on_bad_image(config.data.on_bad_image)
        augmentation = config.data.augmentation()  # now, so that a mistake in it is told before anything is written
        if config.data.in_memory:
            self._in_memory(self.train, augmentation)

    def _order(self, step: int) -> EpochBatches:
        return order_of(self.config, self.fabric, len(self.train), step, self.train.groups)

    def batches(self, step: int) -> Iterator[Batch]:
        """The parts of each step that this process goes through, from `step` on, augmented."""
        data, seed, order = self.config.data, self.config.run.seed, self._order(step)
        augmentation = data.augmentation()
        if data.in_memory:
            return map(self._in_memory(self.train, augmentation).training_batch, order)
        return training_loader(
            self.train, data.preprocessing(), augmentation, seed, order, data.workers, data.on_bad_image
        )

    def _in_memory(self, source: Source, augmentation: Augmentation | None) -> InMemoryImages:
        """The images of a source, decoded once and kept for all epochs."""
        if id(source) not in self._memory:
            data, run = self.config.data, self.config.run
            self._memory[id(source)] = InMemoryImages(
                source, data.preprocessing(), augmentation, run.seed, self.fabric.device, data.on_bad_image
            )
        return self._memory[id(source)]

    def loss(self, model: nn.Module, batch: Batch, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy, and how many first answers are right."""
        self.skipped.update(self.train.name(index) for index in batch.skipped)
        if not len(batch):
            return self._nothing(model), {"top1": 0}
        batch = batch.to(self.fabric.device, self.config.run.channels_last)
        if self.mixing:
            images, targets = self.mixing(batch.images, batch.labels, seed)
            logits = model(images).float()
            loss = F.cross_entropy(logits, targets)
        else:
            logits = model(batch.images).float()
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.config.recipe.label_smoothing)
        return loss, {"top1": (logits.argmax(1) == batch.labels).sum().item()}

    def _nothing(self, model: nn.Module) -> Tensor:
        """A loss without gradient, for a part whose images could all not be read: other processes wait for us."""
        data = self.config.data
        return 0 * model(torch.zeros(2, data.channels, data.image_size, data.image_size).to(self.fabric.device)).sum()

    def names(self, batch: Batch) -> list[str]:
        """What a person would call the images of a batch."""
        return [self.train.name(index) for index in batch.indices.tolist()]

    def score(self, model: nn.Module) -> Score:
        """The network on the held-out images, each once over all processes."""
        fabric = self.fabric
        score = evaluate(
            model,
            self._held_out_batches(),
            len(self.train.classes),
            fabric.device,
            self.config.run.channels_last,
            self._sum if fabric.world_size > 1 else None,
        )
        self.skipped.update(self.held_out.name(index) for index in score.skipped)
        if not score.count:
            raise SasaError("none of the held-out images could be read")
        return score

    def _held_out_batches(self) -> Iterator[Batch]:
        data, fabric = self.config.data, self.fabric
        size = 2 * max(1, self.config.recipe.batch_size // (fabric.world_size * self.config.recipe.accumulate))
        if data.in_memory:
            memory = self._in_memory(self.held_out, None)
            parts = shares(self.held_out, size, fabric.global_rank, fabric.world_size)
            return (memory.evaluation_batch([index for _, index in part]) for part in parts)
        return evaluation_loader(
            self.held_out,
            data.preprocessing(),
            size,
            data.workers,
            data.on_bad_image,
            fabric.global_rank,
            fabric.world_size,
        )

    def _sum(self, tensor: Tensor) -> Tensor:
        return self.fabric.all_reduce(tensor.to(self.fabric.device), reduce_op="sum").cpu()

    def save(self, folder: Path) -> None:
        """The network with its labels and preprocessing, as `sasa.create_model` and the commands read it."""
        preprocessing = preprocessing_to(self.config.data.preprocessing())
        self.network.save_pretrained(folder, labels=self.train.classes, preprocessing=preprocessing)

    def summary(self, score: Score, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Accuracy at the end, and of the best epoch."""
        best = max(rows, key=lambda row: (row["held_out_top1"], -row["held_out_loss"]))
        return {
            "held_out_top1": round(score.top1, 6),
            "held_out_top5": round(score.top5, 6),
            "held_out_loss": round(score.loss, 6),
            "held_out_pictures": score.count,
            "held_out_drawn": isinstance(self.held_out, Subset),
            "best_top1": best["held_out_top1"],
            "best_epoch": best["epoch"],
        }

    def draw(self, score: Score, rows: list[dict[str, Any]], folder: Path) -> None:
        """Curves, the confusion matrix, a grid of held-out images with predictions, and attention over one."""
        draw_curves(learning_curves(rows), folder / "curves.png")
        draw_confusion(score.confusion, self.train.classes, folder / "confusion.png")
        predictor = Predictor(self.network, self.train.classes, self.config.data.preprocessing())
        order = epoch_order(len(self.held_out), self.config.run.seed, 0).tolist()
        shown = list(islice((i for i in order if self.held_out.name(i) not in self.skipped), SHOWN))
        draw_held_out(predictor, self.held_out, shown, folder)


def learning_curves(rows: list[dict[str, Any]]) -> list[Panel]:
    """Make the curves of metrics.csv: loss and accuracy on the training set and the held-out images."""
    prefixes = {"training": "train", "held out": "held_out"}
    losses = {label: points(rows, f"{prefix}_loss") for label, prefix in prefixes.items()}
    accuracies = {label: points(rows, f"{prefix}_top1", 100) for label, prefix in prefixes.items()}
    return [Panel("cross-entropy", losses, logarithmic=True), Panel("top-1 accuracy, %", accuracies)]


def draw_held_out(predictor: Predictor, source: Source, shown: list[int], folder: Path) -> None:
    """predictions.png of some images of a source, and attention.png of the first."""
    images = [source.read(index, predictor.preprocessing.channels) for index in shown]
    predictions = predictor.predict([(source.name(i), p) for i, p in zip(shown, images, strict=True)], top=1)
    draw_predictions(
        [predictor.preprocessing.square(image) for image in images],
        [prediction.labels[0] for prediction in predictions],
        [prediction.shares[0] for prediction in predictions],
        [source.classes[source.labels[index]] for index in shown],
        folder / "predictions.png",
    )
    if attention_layers(predictor.network):
        predictor.draw_attention(images[0], folder / "attention.png")


def open_training_data(config: TrainConfig) -> tuple[Source, Source]:
    """Training and held-out images; with data.limit, the first so many of a seeded order."""
    data, seed = config.data, config.run.seed
    train, held_out = open_splits(data.source, data.held_out, seed)
    if data.limit and data.limit < len(train):
        train = Subset(train, sorted(epoch_order(len(train), seed, -1)[: data.limit].tolist()))
    return train, held_out


def make_network(config: TrainConfig, num_classes: int) -> ResNet:
    """The network of the config for the data's classes and channels, seeded."""
    options = {key: value for key, value in config.model.items() if key != "name"}
    if options.get("num_classes", num_classes) != num_classes:
        raise UsageError(f"model.num_classes is {options['num_classes']}, but the data has {num_classes} classes")
    torch.manual_seed(config.run.seed)
    name = config.model["name"]
    network = create_model(name, **{**options, "num_classes": num_classes, "in_chans": config.data.channels})
    if not isinstance(network, ResNet):
        raise UsageError(f"{name} is a detector, which `sasa detect train` trains; sasa train is for classes")
    network.set_grad_checkpointing(config.run.gradient_checkpointing)
    if config.run.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network
