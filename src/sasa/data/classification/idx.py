"""MNIST, Fashion-MNIST and KMNIST as torchvision downloads them: four files in the idx format of MNIST's authors."""

import gzip
import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from sasa.data.classification.source import Found, Pixels
from sasa.data.directories import sub_directories
from sasa.errors import DataError

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = [*"T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag".split(), "Ankle boot"]
CLASSES = {"MNIST": DIGITS, "FashionMNIST": CLOTHES}
LARGEST = 1 << 32  # bytes of pixels: a few kilobytes of gzip can ask for more than any machine has


def look(root: Path) -> dict[str, Callable[[], Found]]:
    """Return openers, by name, of the sets in torchvision's root directory, or of the set that `root` itself is."""
    found: dict[str, Callable[[], Found]] = {}
    inner = sub_directories(root) if root.is_dir() else []
    for directory in (root, root / "raw", *(directory / "raw" for directory in inner)):
        if _path(directory, "train-images-idx3-ubyte"):
            place = directory.absolute()  # the directory may have been given as "."
            name = place.parent.name if place.name == "raw" else place.name
            found[name] = partial(open_idx, directory, name)
    return found


def open_idx(directory: Path, name: str) -> Found:
    """Open the set in a directory of idx files: gray, the pixels held in memory.

    Raises:
        DataError: a file is missing, cut off or damaged.
    """
    classes = CLASSES.get(name, DIGITS)
    train, test = (_pixels(directory, part, classes) for part in ("train", "t10k"))
    return Found(train, test, [])


def _pixels(directory: Path, part: str, classes: list[str]) -> Pixels:
    images, images_path = _read(directory, f"{part}-images-idx3-ubyte", 3)
    labels, labels_path = _read(directory, f"{part}-labels-idx1-ubyte", 1)
    if not len(images) == len(labels) > 0:
        raise DataError(f"{images_path} has {len(images)} images, and {labels_path.name} {len(labels)} labels")
    if labels.max() >= len(classes):
        raise DataError(f"{labels_path} has the label {labels.max()}; expected 0 to {len(classes) - 1}")
    return Pixels(images, labels.tolist(), classes, f"{directory} {part} image")


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
