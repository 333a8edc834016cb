"""The parts of a task's package, and what the packages share beside `sasa.training.task.Task`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sasa.errors import UsageError
from sasa.tasks.trained import Evaluation, EvaluationOptions, TrainedNetwork
from sasa.training.settings import Config
from sasa.training.task import Task


@dataclass(frozen=True)
class KnownSet:
    """The size of a public data set, of which a dry run without the data generates images."""

    classes: int
    training: int
    held_out: int


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


def noise(height: int, width: int, index: int) -> Image.Image:
    """Return the same noise for every `index`, moved down by as many pixels."""
    return Image.fromarray(np.roll(_pixels(height, width), index, 0))


@functools.cache
def _pixels(height: int, width: int) -> np.ndarray:
    """Draw the noise once: a dry run times its steps, not this."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
