"""The interface of a task's package, and the base class of tasks: the part between the loop and the data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sasa.data.sampler import EpochBatches
from sasa.errors import UsageError
from sasa.tasks.stand_in import KnownSet
from sasa.tasks.trained import Evaluation, EvaluationOptions, TrainedNetwork, preprocessing_to
from sasa.training.settings import Config, RecipeConfig
from sasa.training.task import Task

MOST_LEFT_OUT = 0.1  # of the training images in an epoch, as an incomplete batch, without a note


@dataclass(frozen=True)
class TaskPackage:
    """The parts of a task that training and the commands use.

    Args:
        config: class of the settings of a run.
        resolve: (YAML file or recipe or None, changes) -> config.
        make: (config, fabric, splits or None for those of the config) -> the task that the loop trains.
        predictor: class of its trained networks.
        evaluate: (predictor, its directory, options) -> score on held-out images.
        generate: (known set, config) -> generated splits, for a dry run without the data.
        known_sets: data sets that can be generated, by name.
        cpu_part: images a step of such a dry run without a GPU.
    """

    config: type[Config]
    resolve: Callable[[str | None, list[tuple[str, Any]]], Config]
    make: Callable[[Any, Any, Any], Task]
    predictor: type[TrainedNetwork]
    evaluate: Callable[[Any, str, EvaluationOptions], Evaluation]
    generate: Callable[[KnownSet, Any], tuple[Any, Any]]
    known_sets: dict[str, KnownSet]
    cpu_part: int


class BaseTask:
    """A network with the training and held-out images of a config.

    Args:
        config: of the run.
        fabric: Lightning Fabric, launched.
        splits: (training images, held-out images).
        network: for the classes of the training images.
    """

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

    def names(self, batch: Any) -> list[str]:
        """Return the names of the images of a training batch, for messages."""
        return [self.train.name(index) for index in batch.indices.tolist()]

    def save(self, directory: Path) -> None:
        """Write the network with its class names and preprocessing, as `sasa.create_model` and the commands read it."""
        preprocessing = preprocessing_to(self.config.data.preprocessing())
        self.network.save_pretrained(directory, labels=self.train.classes, preprocessing=preprocessing)


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


def network_options(config: Config, num_classes: int) -> dict[str, Any]:
    """Return the config's options of `sasa.create_model` without the name, for the number of classes in the data.

    Raises:
        UsageError: the config asks for another number of classes.
    """
    options = {key: value for key, value in config.model.items() if key != "name"}
    if options.get("num_classes", num_classes) != num_classes:
        raise UsageError(f"model.num_classes is {options['num_classes']}, but the data has {num_classes} classes")
    return {**options, "num_classes": num_classes}


def set_up(network: Any, config: Config) -> None:
    """Apply the settings `run.gradient_checkpointing` and `run.channels_last` to a network."""
    network.set_grad_checkpointing(config.run.gradient_checkpointing)
    if config.run.channels_last:
        assert isinstance(network, nn.Module)
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
