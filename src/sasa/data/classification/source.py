"""What a source is: labels at once, images one at a time, in any order and from any process."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sasa.errors import DataError

# A label above this is taken for damage: numbering the classes up to it would fill the memory.
MOST_CLASSES = 1_000_000


class Source(ABC):
    """Images with labels. `labels[i]` is an index into `classes`.

    `groups[i]`, where it is not None, is the number of the file (or part of a file) that holds image i: images of
    the same group are read fastest one after the other. Sources can be pickled and copied into other processes; each
    process opens its own files.
    """

    classes: list[str]
    labels: Sequence[int]
    groups: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Image `index`, upright, 8 bits, RGB (channels=3) or gray (channels=1)."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a person would call image `index`: for messages."""


class Subset(Source):
    """Some images of a source, in the given order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = list(indices)
        self.classes = source.classes
        self.labels = [source.labels[index] for index in self.indices]
        groups = source.groups
        self.groups = None if groups is None else [groups[index] for index in self.indices]

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Image `index` of the subset."""
        return self.source.read(self.indices[index], channels)

    def name(self, index: int) -> str:
        """Its name in the whole source."""
        return self.source.name(self.indices[index])


class Pixels(Source):
    """Small images held in memory as they are, not encoded.

    Args:
        pixels: N x H x W (gray) or N x H x W x 3 (RGB), uint8.
        labels: N indices into `classes`.
        classes: their names.
        title: an image is called "{title} {index}".
    """

    def __init__(self, pixels: np.ndarray, labels: Sequence[int], classes: list[str], title: str) -> None:
        self._pixels, self.labels, self.classes, self._title = pixels, labels, classes, title

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Image `index`, H x W."""
        return Image.fromarray(self._pixels[index]).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """The title of the set and the place in it."""
        return f"{self._title} {index}"


def check_labels(where: object, labels: Sequence[int], classes: list[str] | None) -> list[str]:
    """The classes given, or numbers up to the largest label; all labels within them.

    Raises:
        DataError: a label outside, or -1, with which test sets are published whose labels are kept secret.
    """
    smallest, largest = min(labels), max(labels)
    if smallest == -1:
        raise DataError(f"{where} has images with the label -1: they have no label, and cannot be trained or scored")
    last = len(classes) - 1 if classes is not None else MOST_CLASSES - 1
    if smallest < 0 or largest > last:
        wrong = smallest if smallest < 0 else largest
        raise DataError(f"{where} has the label {wrong}, and labels outside 0 to {last} belong to no class")
    return classes if classes is not None else [str(number) for number in range(largest + 1)]
