"""Trained networks of any task: loading one with its class names and preprocessing, predicting, evaluating."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from PIL import Image

from sasa.data.images import read_image
from sasa.errors import SasaError
from sasa.models.create import load_pretrained
from sasa.models.hub import locate, on_hub
from sasa.training.settings import Config


class TrainedNetwork(ABC):
    """A network of a run, or of any directory that `save_pretrained` wrote with labels and preprocessing.

    Subclasses define the network's class, the input for an image (`prepare`) and the answers for a batch (`answers`).
    """

    NETWORK: ClassVar[type]
    OTHER_TASK: ClassVar[str]  # the end of the message "DIRECTORY ...": it holds a network of another class
    BATCH: ClassVar[int]  # images that go through the network together

    def __init__(self, network: Any, labels: list[str], preprocessing: Any) -> None:
        self.network, self.labels, self.preprocessing = network.eval(), labels, preprocessing
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> Self:
        """Read weights, class names and preprocessing.

        Args:
            name: a directory, or hf:OWNER/NAME.
            device: "auto" (the first GPU that torch can use, else the CPU), "cpu" or "cuda".

        Raises:
            SasaError: no such directory or device; a network of another task, or without class names or preprocessing.
        """
        chosen = choose_device(device)
        directory = locate(name)
        if not directory.is_dir():
            raise SasaError(f"{str(name)!r} is not the directory of a run or of a saved network")
        network = load_pretrained(directory)
        shown = name if on_hub(name) else directory
        if not isinstance(network, cls.NETWORK):
            raise SasaError(f"{shown} {cls.OTHER_TASK}")
        try:
            labels = [str(label) for label in network.metadata["labels"]]
            preprocessing = cls.preprocessing_from(network.metadata["preprocessing"])
        except (KeyError, TypeError) as error:
            raise SasaError(f"{shown} holds a network without labels and preprocessing: it was not trained") from error
        if len(labels) != network.num_classes:
            raise SasaError(f"{shown} names {len(labels)} classes, but its network has {network.num_classes}")
        return cls(network.to(chosen), labels, preprocessing)

    @staticmethod
    @abstractmethod
    def preprocessing_from(values: dict[str, Any]) -> Any:
        """Make the preprocessing from what `preprocessing_to` returned."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """Return the input of `answers` for an image."""

    @abstractmethod
    def answers(self, names: Sequence[str], prepared: Sequence[Any], options: Any) -> list[Any]:
        """Return the network's answers for a batch, each with a method `to_dict`."""

    def read(self, path: Path) -> Image.Image:
        """Read an image file in the network's channels."""
        return read_image(path, channels=self.preprocessing.channels)

    def stream(
        self,
        images: Iterable[tuple[str, Image.Image]],
        options: Any = None,
        keep: Callable[[Image.Image], Any] = lambda image: None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (answer, kept) for each (name, image) in order; `kept` is the result of `keep` for the image.

        Args:
            images: read one by one; at most a batch of them is in memory.
            options: of the task, see `answers`.
            keep: returns the part of an image to keep until its answer is computed, such as a small copy.
        """
        ready = ((name, self.prepare(image), keep(image)) for name, image in images)
        while batch := list(islice(ready, self.BATCH)):
            names, prepared, kept = zip(*batch, strict=True)
            yield from zip(self.answers(names, prepared, options), kept, strict=True)


def choose_device(name: str) -> torch.device:
    """Return the device with this name; "auto" is the first GPU that torch can use, else the CPU.

    Raises:
        SasaError: torch sees no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SasaError(f"torch sees no GPU here for --device {name}: use cpu, or see 'sasa doctor'")
    return torch.device(name)


def preprocessing_to(preprocessing: Any) -> dict[str, Any]:
    """Return the fields of a preprocessing as plain values for config.json."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(preprocessing).items()}


class Evaluation(Protocol):
    """Interface of a trained network's score, which the commands print and write."""

    @property
    def labels(self) -> list[str]:
        """The class names."""
        ...

    @property
    def skipped(self) -> list[str]:
        """Names of the images that could not be read."""
        ...

    def summary(self) -> dict[str, Any]:
        """Return the figures over all classes."""
        ...

    def class_table(self) -> tuple[list[str], list[list[Any]]]:
        """Return a heading, and a row for each class: its name, then counts (int) and shares of 1 (float, or None)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        ...


@dataclass(frozen=True)
class EvaluationOptions:
    """The data that a trained network is scored on, and how it is read.

    Args:
        data: as --data takes it; None for that of the run.
        split: "train", "val" or "test", where the task knows them.
        batch_size: images that go through the network together.
        workers: processes that read images; None for as many as the run had, or none.
        on_bad_image: "error" or "skip".
    """

    data: str | None = None
    split: str = "val"
    batch_size: int = 64
    workers: int | None = None
    on_bad_image: str = "error"


def config_and_options(
    name: str, options: EvaluationOptions | None, config_class: type[Config]
) -> tuple[Any, EvaluationOptions]:
    """Return the config of the run `name`, or the default one, and the options without None.

    Raises:
        SasaError: no data given, and the directory is not a run.
    """
    options, path = options or EvaluationOptions(), locate(name) / "config.yaml"
    config = config_class.read(str(path)) if path.is_file() else None
    if options.data is None and config is None:
        raise SasaError(f"{name} is not a run with data of its own: name some with --data")
    workers = options.workers
    if workers is None:
        workers = config.data.workers if config else 0
    config = config or config_class()  # pyright: ignore[reportCallIssue]
    return config, dataclasses.replace(options, data=options.data or config.data.source, workers=workers)
