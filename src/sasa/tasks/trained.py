"""Trained networks of any task: loading one with its class names and preprocessing, predicting, evaluating."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor

from sasa.data.images import read_image
from sasa.errors import SasaError
from sasa.models.create import load_pretrained
from sasa.models.hub import locate, on_hub
from sasa.training.settings import Config

LARGEST = 768  # pixels of the longer side of an image that is shown


@dataclass(frozen=True)
class Answer:
    """A class with its probability; for a detector also the box: left, top, right, bottom as fractions of the image."""

    label: str
    probability: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class NamedImage:
    """An image with its name, and its true class if known."""

    name: str
    image: Image.Image
    truth: str | None = None


class TrainedNetwork(ABC):
    """A network of a run, or of any directory that `save_pretrained` wrote with labels and preprocessing.

    Subclasses define the network's class, the input for an image (`prepare`) and the answers for a batch (`answers`);
    and for the explorer and for export, which take a network of any task, the methods below `predict`.
    """

    KIND: ClassVar[str]  # "classifier"
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
        """Make the preprocessing from its fields as JSON holds them."""

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

    def predict(self, images: Iterable[tuple[str, Image.Image]], options: Any = None) -> list[Any]:
        """Return the answer for each (name, image), see `stream`."""
        return [answer for answer, _ in self.stream(images, options)]

    @property
    @abstractmethod
    def side(self) -> int:
        """Side in pixels of a square input that any image fits."""

    @abstractmethod
    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the network's input for images, (B, C, side, side)."""

    @abstractmethod
    def best(self, image: Image.Image, score: float) -> list[Answer]:
        """Return the most likely classes, or the boxes with at least this score; best first."""

    @abstractmethod
    def shown(self, image: Image.Image) -> Image.Image:
        """Return the part of an image that the network sees, with at most `LARGEST` pixels a side."""

    @abstractmethod
    def seen_size(self, image: Image.Image) -> tuple[int, int]:
        """Return (height, width) in pixels of the network's input for an image, without padding."""

    @abstractmethod
    def validation_images(self, directory: Path) -> Iterator[NamedImage]:
        """Return a few validation images of the network's run."""

    def images_of(self, name: str, paths: Sequence[Path]) -> Iterator[NamedImage]:
        """Read the image files, or without any the validation images of the run `name`.

        Raises:
            SasaError: no paths, and the directory is not a run with data of its own.
            DataError: a file that cannot be read.
        """
        if paths:
            return (NamedImage(str(path), self.read(path)) for path in paths)
        directory = locate(name)
        if not (directory / "config.yaml").is_file():
            raise SasaError(f"{name} is not a run with data of its own: name an image")
        return self.validation_images(directory)


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


@dataclass(frozen=True)
class Evaluation(ABC):
    """A trained network's score, which the commands print and write.

    Args:
        score: of the task, over all images that could be read.
        labels: class names.
        skipped: names of the images that could not be read.
        seconds: with reading the images.
    """

    score: Any
    labels: list[str]
    skipped: list[str]
    seconds: float

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Return the figures over all classes, as fractions of 1, by the names in summary.json."""

    @abstractmethod
    def class_table(self) -> tuple[list[str], list[list[Any]]]:
        """Return a heading, and a row for each class: its name, then counts (int) and shares of 1 (float, or None)."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything but the boxes, as JSON holds it."""


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
