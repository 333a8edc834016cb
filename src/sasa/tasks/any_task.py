"""Trained classifiers and detectors behind one interface, for what takes a network of either kind: explorer, export."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from sasa.data.classification import open_splits
from sasa.data.detection.batch import PAD_MULTIPLE, pad_batch
from sasa.data.detection.open import open_detection_split
from sasa.data.images import read_image
from sasa.errors import SasaError
from sasa.models.boxes import Selection
from sasa.models.hub import locate
from sasa.models.retinanet_config import DETECTORS
from sasa.models.weights import read_config
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.predictor import Predictor
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.detection.predictor import Detector

CLASSES, IMAGES = 10, 4  # validation images taken from a run: one of each of 10 classes; 4 for a detector
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


class Classifier:
    """A trained classifier; it sees the square at the centre of an image."""

    kind = "classifier"

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.network: nn.Module = predictor.network
        self.channels = predictor.preprocessing.channels
        self.side = predictor.preprocessing.image_size  # of the network's square input

    def prepare(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the network's input for images, (B, C, side, side)."""
        return torch.stack([self.predictor.prepare(image) for image in images])

    def answers(self, image: Image.Image) -> list[Answer]:
        """Return the five most likely classes, best first."""
        (prediction,) = self.predictor.predict([("", image)], top=5)
        return [Answer(*pair) for pair in zip(prediction.labels, prediction.shares, strict=True)]

    def shown(self, image: Image.Image) -> Image.Image:
        """Return the square that the network sees, at a higher resolution if the image has it."""
        preprocessing = self.predictor.preprocessing
        finest = min(min(image.size) / preprocessing.resized_side, LARGEST / preprocessing.image_size)
        size = round(preprocessing.image_size * max(1.0, finest))
        return replace(preprocessing, image_size=size).square(image)

    def seen_size(self, image: Image.Image) -> tuple[int, int]:
        """Return (height, width) in pixels of the network's input for an image."""
        return self.side, self.side

    def validation_images(self, directory: Path) -> Iterator[NamedImage]:
        """Return the first validation image of each class, for at most ten classes."""
        config = TrainConfig.read(str(directory / "config.yaml"))
        source = open_splits(config.data.source, config.data.held_out, config.run.seed)[1]
        labels = list(source.labels)
        for label in sorted(set(labels))[:CLASSES]:
            index = labels.index(label)
            yield NamedImage(source.name(index), source.read(index, self.channels), source.classes[label])


class ObjectDetector:
    """A trained detector; it sees the whole image, resized, and padded at the right and the bottom.

    Args:
        detector: the network with its labels and preprocessing.
        score: lowest score of a box.
    """

    kind = "detector"

    def __init__(self, detector: Detector, score: float) -> None:
        self.detector, self.score = detector, score
        self.network: nn.Module = detector.network
        self.channels = detector.preprocessing.channels
        self.side = -(-detector.preprocessing.image_size // PAD_MULTIPLE) * PAD_MULTIPLE  # of an input for any image

    def prepare(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the network's input for images, padded to (B, C, side, side)."""
        tensors = [self.detector.prepare(image)[0] for image in images]
        return pad_batch([*tensors, tensors[0].new_zeros(self.channels, self.side, self.side)])[:-1]

    def answers(self, image: Image.Image) -> list[Answer]:
        """Return the boxes found, best first."""
        (found,) = self.detector.detect([("", image)], Selection(score=self.score))
        return [
            Answer(label, score, (x1 / image.width, y1 / image.height, x2 / image.width, y2 / image.height))
            for label, score, (x1, y1, x2, y2) in zip(found.labels, found.scores, found.boxes, strict=True)
        ]

    def shown(self, image: Image.Image) -> Image.Image:
        """Return the image, reduced if it is large."""
        copy = image.copy()
        copy.thumbnail((LARGEST, LARGEST))
        return copy

    def seen_size(self, image: Image.Image) -> tuple[int, int]:
        """Return (height, width) in pixels of the network's input for an image, without the padding."""
        return self.detector.preprocessing.fit(image.height, image.width)

    def validation_images(self, directory: Path) -> Iterator[NamedImage]:
        """Return the first four images of the validation set."""
        config = DetectionConfig.read(str(directory / "config.yaml"))
        data = config.data
        source = open_detection_split(data.source, "val", data.held_out, config.run.seed, self.detector.labels)
        for index in range(min(IMAGES, len(source))):
            yield NamedImage(source.name(index), source.read(index, self.channels))


Trained = Classifier | ObjectDetector


def load(name: str, device: str, score: float) -> Trained:
    """Read a classifier or a detector.

    Args:
        name: a directory, or hf:OWNER/NAME.
        device: "auto", "cpu" or "cuda".
        score: lowest score of a detector's box.

    Raises:
        SasaError: not a trained network; no such device.
    """
    directory = locate(name)
    if directory.is_dir() and read_config(directory)["architecture"] in DETECTORS:
        return ObjectDetector(Detector.load(name, device), score)
    return Classifier(Predictor.load(name, device))


def images_of(model: Trained, name: str, paths: Sequence[Path]) -> Iterator[NamedImage]:
    """Read the image files, or without any the validation images of the run.

    Raises:
        SasaError: no paths, and the directory is not a run with data of its own.
        DataError: a file that cannot be read.
    """
    if paths:
        return (NamedImage(str(path), read_image(path, channels=model.channels)) for path in paths)
    directory = locate(name)
    if not (directory / "config.yaml").is_file():
        raise SasaError(f"{name} is not a run with data of its own: name an image")
    return model.validation_images(directory)
