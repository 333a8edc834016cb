"""Images with one label each."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sasa.data.source import MOST_CLASSES, ImageSource
from sasa.data.text import check_known, class_name, is_number, repeated
from sasa.errors import DataError

FEW_CLASSES = 10  # may have a single image each; more words than half the images are captions
NO_LABEL = "{where} has images with the label -1: they have no label, and cannot be trained or scored"
_WHOLE = re.compile(r"^(-?\d+)\.0$")  # pandas makes floats of integers


class Source(ImageSource):
    """Images with labels: `labels[i]` is an index into `classes`."""

    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> list[int]:
        """The number of images of each class."""
        return np.bincount(np.asarray(self.labels, np.int64), minlength=len(self.classes)).tolist()


class UnlabelledError(DataError):
    """All images of a split lack labels, as in published test sets."""


class Found(NamedTuple):
    """An opened data set; without a split for held-out images, all images are in `train`."""

    train: Source
    held_out: Source | None
    notes: list[str]  # about the directories that were entered and the files that are ignored
    places: tuple[str, str] = ("", "its own split")  # paths of the two, if they differ from that of the data set


# The openers of a format by the name of the format; empty if `path` does not hold it.
Look = Callable[[Path], dict[str, Callable[[], Found]]]


class Subset(Source):
    """Some images of a source, in the given order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)
        self.classes, self.description = source.classes, source.description
        self.labels = [source.labels[index] for index in self.indices]
        self.groups = source.groups and [source.groups[index] for index in self.indices]

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Read image `index` of the subset."""
        return self.source.read(self.indices[index], channels)

    def name(self, index: int) -> str:
        """Name of the image in the whole source."""
        return self.source.name(self.indices[index])

    def fingerprint(self, index: int) -> bytes | None:
        """Hash of the image in the whole source."""
        return self.source.fingerprint(self.indices[index])

    def resolved_paths(self) -> Iterator[str]:
        """Yield the paths of the images in the whole source."""
        paths = list(self.source.resolved_paths())
        return (paths[index] for index in self.indices if paths)


class Pixels(Source):
    """Small images held in memory: N x H x W (gray) or N x H x W x 3 (RGB), uint8; called "{title} {index}"."""

    def __init__(self, pixels: np.ndarray, labels: Sequence[int], classes: list[str], title: str) -> None:
        self._pixels, self.labels, self.classes, self._title = pixels, labels, classes, title

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Image `index`, H x W."""
        return Image.fromarray(self._pixels[index]).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """The title of the set and the place in it."""
        return f"{self._title} {index}"

    def fingerprint(self, index: int) -> bytes:
        """Hash of the pixels."""
        return hashlib.blake2b(self._pixels[index].tobytes(), digest_size=16).digest()


class Digits(Pixels):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 gray, installed with it: no download."""

    def __init__(self) -> None:
        table = _table_of_digits()
        # Stored as 0 to 16; in 8 bits, 16 becomes white.
        pixels = np.minimum(table[:, :64].reshape(-1, 8, 8) * 16, 255).astype(np.uint8)
        super().__init__(pixels, table[:, 64].astype(int).tolist(), [str(digit) for digit in range(10)], "digit")


def _table_of_digits() -> np.ndarray:
    """(1797, 65): 64 pixels and the label. The file is read as it is: importing scikit-learn takes a second."""
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if file and file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return np.column_stack([digits.data, digits.target])


def number_labels(
    where: object, labels: Sequence[int] | Sequence[str], classes: list[str] | None
) -> tuple[Sequence[int], list[str]]:
    """Return (labels as indices into the classes, classes).

    Args:
        where: the file or directory, for errors.
        labels: indices, or names of classes.
        classes: in the order of the labels; by default the names, sorted (whole numbers by value), or the numbers up
            to the largest label.

    Raises:
        DataError: a label outside, or -1, which stands for unknown labels in published test sets; integers and words.
    """
    if twice := repeated(classes or ()):
        raise DataError(f"{where} has two classes of the name {twice[0]!r}")
    words = {isinstance(label, str) for label in labels}
    if len(words) > 1:
        raise DataError(f"{where} has labels that are integers, and others that are words")
    if words == {True}:
        return _number_words(where, [str(label) for label in labels], classes)
    return [int(label) for label in labels], _check_range(where, labels, classes)


def _check_range(where: object, labels: Sequence[Any], classes: list[str] | None) -> list[str]:
    smallest, largest = min(labels), max(labels)
    if smallest == -1:
        raise (UnlabelledError if largest == -1 else DataError)(NO_LABEL.format(where=where))
    last = len(classes) - 1 if classes is not None else MOST_CLASSES - 1
    if smallest < 0 or largest > last:
        wrong = smallest if smallest < 0 else largest
        raise DataError(f"{where} has the label {wrong}, and labels outside 0 to {last} belong to no class")
    return classes if classes is not None else [str(number) for number in range(largest + 1)]


def _number_words(where: object, words: Sequence[str], classes: list[str] | None) -> tuple[list[int], list[str]]:
    names = {word: _WHOLE.sub(r"\1", class_name(word)) for word in set(words)}
    found = set(names.values())
    numeric = all(name.isdecimal() and name.isascii() for name in found - {"-1"})
    if numeric and "-1" in found:
        raise DataError(NO_LABEL.format(where=where))
    if classes is None:
        if len(found) > max(len(words) // 2, FEW_CLASSES):
            raise DataError(f"{where} has {len(found)} labels in {len(words)} images: texts or numbers, not classes")
        if not numeric and all(map(is_number, found)):
            example = max(found, key=len)
            raise DataError(f"{where} has labels such as {example}, which are numbers and not classes")
        classes = sorted(found, key=lambda name: (int(name), name)) if numeric else sorted(found)
    check_known(str(where), sorted(found), classes)
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[names[word]] for word in words], classes
