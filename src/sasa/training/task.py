"""The base class of tasks: everything that the loop needs, and that differs between classification and detection."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from sasa.data.sampler import EpochBatches, epoch_order
from sasa.training.settings import RecipeConfig

MOST_LEFT_OUT = 0.1  # of the training images in an epoch, as an incomplete batch, without a note


class Scored(Protocol):
    """The score on the held-out images."""

    @property
    def quality(self) -> tuple[float, ...]:
        """Figures that the best checkpoint is chosen by; larger is better, the first one counts most."""
        ...

    def row(self) -> dict[str, float]:
        """Return the columns of metrics.csv."""
        ...


class Task(ABC):
    """A network, its images, its loss and its score.

    Args:
        config: of the run.
        fabric: Lightning Fabric, launched.
        splits: (training images, held-out images).
        network: for the classes of the training images.

    Attributes:
        steps_per_epoch, steps: of the optimizer.
        part: images of a micro-batch.
        notes: a sentence for each setting that does not fit the training images or the length of the run.
        skipped: names of images that could not be read and were left out.
        chance: training accuracy of the same answer for every image; 0 where it is not measured.
    """

    chance: float = 0.0
    LOADER: ClassVar[Callable[..., Iterator[Any]]]  # see `training_loader` of sasa.data.classification.batch

    def __init__(self, config: Any, fabric: Any, splits: tuple[Any, Any], network: Any) -> None:
        self.config, self.fabric, self.network = config, fabric, network
        self.train, self.held_out = splits
        order = self.order(0)
        self.steps_per_epoch, self.steps, self.part = order.steps_per_epoch, order.steps, order.part
        self.notes = changed_settings(config.recipe, order)
        self.skipped: set[str] = set()

    def order(self, step: int) -> EpochBatches:
        """Return the order of this process's training images, from `step` on."""
        recipe = self.config.recipe
        return EpochBatches(
            len(self.train),
            recipe.batch_size,
            recipe.epochs,
            self.config.run.seed,
            step,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            accumulate=recipe.accumulate,
            groups=self.train.groups,
        )

    def batches(self, step: int) -> Iterator[Any]:
        """Iterate over this process's augmented micro-batches, `recipe.accumulate` for each step, from `step` on."""
        data, order = self.config.data, self.order(step)
        transforms = data.preprocessing(), data.augmentation()
        return self.LOADER(self.train, *transforms, self.config.run.seed, order, data.workers, data.on_bad_image)

    def sample(self, count: int) -> list[int]:
        """Return the first `count` held-out images of a seeded order, without those that cannot be read."""
        order = epoch_order(len(self.held_out), self.config.run.seed, 0).tolist()
        return list(islice((index for index in order if self.held_out.name(index) not in self.skipped), count))

    def names(self, batch: Any) -> list[str]:
        """Return the names of the images of a training batch, for messages."""
        return [self.train.name(index) for index in batch.indices.tolist()]

    def save(self, directory: Path) -> None:
        """Write the network with its class names and preprocessing, as `sasa.create_model` and the commands read it."""
        preprocessing = dataclasses.asdict(self.config.data.preprocessing())
        self.network.save_pretrained(directory, labels=self.train.classes, preprocessing=preprocessing)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of a batch, and sums over its images whose means are columns of metrics.csv."""

    @abstractmethod
    def describe(self, images: Any, index: int) -> str:
        """Return the name and the labels of an image of a split, the same for any location of the data set."""

    @abstractmethod
    def score(self, model: nn.Module) -> Scored:
        """Score the held-out images, each once over all processes."""

    @abstractmethod
    def summary(self, score: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the task's part of summary.json: the score at the end, and the best of the epochs' rows."""

    @abstractmethod
    def draw(self, score: Any, rows: list[dict[str, Any]], directory: Path) -> None:
        """Draw the results into the run's directory."""


def changed_settings(recipe: RecipeConfig, order: EpochBatches) -> list[str]:
    """Return a sentence for each setting of a recipe that does not fit the training images or the length of the run."""
    notes, left_out = [], order.size - order.steps_per_epoch * order.batch_size
    if order.batch_size < recipe.batch_size:
        notes.append(
            f"batches: reduced from {recipe.batch_size} images (recipe.batch_size) to the {order.batch_size} that "
            f"there are, for which recipe.learning_rate ({recipe.learning_rate:g}) may be too high"
        )
    if left_out > MOST_LEFT_OUT * order.size:
        notes.append(
            f"batches: each epoch leaves out {left_out} of the {order.size} training images, other ones every time, "
            f"because they do not fill a batch of {order.batch_size}"
        )
    if recipe.warmup_epochs > recipe.epochs / 2:
        notes.append(
            f"warm-up: reduced from {recipe.warmup_epochs:g} epochs (recipe.warmup_epochs) to half of the run, "
            f"{recipe.epochs / 2:g} of {recipe.epochs}"
        )
    return notes
