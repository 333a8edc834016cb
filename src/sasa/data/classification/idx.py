"""MNIST, Fashion-MNIST, KMNIST and EMNIST as torchvision downloads them, in the idx format of MNIST's authors."""

import gzip
import math
import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from sasa.data.classification.source import Found, Pixels
from sasa.data.directories import sub_directories
from sasa.data.text import read_lines
from sasa.errors import DataError

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = [*"T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag".split(), "Ankle boot"]
CLASSES = {"MNIST": DIGITS, "FashionMNIST": CLOTHES}
_TRAINING = re.compile(r"(.*)train-images[-.]idx3-ubyte(\.gz)?")
LARGEST = 1 << 32  # bytes of pixels: a few kilobytes of gzip can ask for more than any machine has


def look(path: Path) -> dict[str, Callable[[], Found]]:
    """Return openers, by name, of the sets in torchvision's root directory, in `path` itself, or of one of its files.

    EMNIST has several sets in one directory (`emnist-letters-train-images-idx3-ubyte`), called by their names.
    """
    found: dict[str, Callable[[], Found]] = {}
    inner = sub_directories(path) if path.is_dir() else []
    directories = (path, path / "raw", *(directory / "raw" for directory in inner))
    files = [file for directory in directories if directory.is_dir() for file in directory.glob("*train-images*")]
    for file in [path] if path.is_file() else files:
        if match := _TRAINING.fullmatch(file.name):
            place = file.parent.absolute()  # the directory may have been given as "."
            name = place.parent.name if place.name == "raw" else place.name
            found[match[1].rstrip("-") or name] = partial(open_idx, file.parent, name, match[1])
    return found


def open_idx(directory: Path, name: str, prefix: str = "") -> Found:
    """Open the set of that name in a directory of idx files: gray, the pixels held in memory.

    The files of EMNIST's sets have a prefix ("emnist-letters-"), and their images are stored with rows as columns.
    """
    classes = _mapping(directory / f"{prefix}mapping.txt") or dict(enumerate(CLASSES.get(name, DIGITS)))
    test = "test" if _path(directory, f"{prefix}test-images-idx3-ubyte") else "t10k"
    train, other = (_pixels(directory, prefix + part, classes) for part in ("train", test))
    return Found(train, other, [])


def _mapping(path: Path) -> dict[int, str]:
    """Classes by label, from lines of a label and the codes of its letters; empty if there is no such file."""
    if not path.is_file():
        return {}
    lines = [line.split() for line in read_lines(path)]
    if not all(len(words) > 1 and all(word.isdecimal() and int(word) < 128 for word in words) for words in lines):
        raise DataError(f"{path} must have a label and the codes of letters on each line")
    return {int(label): "/".join(chr(int(code)) for code in codes) for label, *codes in lines}


def _pixels(directory: Path, part: str, classes: dict[int, str]) -> Pixels:
    images, images_path = _read(directory, f"{part}-images-idx3-ubyte", 3)
    labels, labels_path = _read(directory, f"{part}-labels-idx1-ubyte", 1)
    if not len(images) == len(labels) > 0:
        raise DataError(f"{images_path} has {len(images)} images, and {labels_path.name} {len(labels)} labels")
    numbers = {label: number for number, label in enumerate(classes)}
    if unknown := set(labels.tolist()) - set(numbers):
        raise DataError(f"{labels_path} has the label {max(unknown)}; expected {min(numbers)} to {max(numbers)}")
    images = images.transpose(0, 2, 1) if part.startswith("emnist") else images
    title = f"{directory} {part} image"
    return Pixels(images, [numbers[label] for label in labels.tolist()], list(classes.values()), title)


def _path(directory: Path, name: str) -> list[Path]:
    # Some copies of the set write a dot for the last hyphen, or have each file in a directory of its name.
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name}/{name}")
    return [directory / name for name in names if (directory / name).is_file()]


def _read(directory: Path, name: str, dimensions: int) -> tuple[np.ndarray, Path]:
    """Read an array of bytes, and its path: two zeros, type 8, number of dimensions, each of them (4 bytes), values."""
    paths = _path(directory, name)
    if not paths:
        raise DataError(f"{directory / name} is missing, and so is {name}.gz")
    path = paths[0]
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < 4 + 4 * dimensions:
                raise DataError(f"{path} is not an idx file of bytes in {dimensions} dimensions")
            shape = np.frombuffer(header[4:], ">u4").tolist()
            size = math.prod(shape)
            if size > LARGEST:
                raise DataError(f"{path} asks for {size} bytes of memory; expected {LARGEST} at most")
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(content) != size:
        held = len(content) if len(content) < size else f"more than {size}"
        raise DataError(f"{path} must hold {size} bytes after its header; it holds {held}")
    return np.frombuffer(content, np.uint8).reshape(shape), path
