"""CIFAR-10 and CIFAR-100 as torchvision downloads them: the "python version" of the sets' authors."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sasa.data.classification.safe_pickle import load
from sasa.data.classification.source import Found, Pixels
from sasa.errors import DataError


class CifarFiles(NamedTuple):
    """The files of a set, the keys in them, and the number of classes."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    label: str
    names: str
    classes: int


SETS = {
    "cifar-10-batches-py": CifarFiles(
        tuple(f"data_batch_{n}" for n in range(1, 6)), ("test_batch",), "batches.meta", "labels", "label_names", 10
    ),
    "cifar-100-python": CifarFiles(("train",), ("test",), "meta", "fine_labels", "fine_label_names", 100),
}


def look(root: Path) -> dict[str, Callable[[], Found]]:
    """Return openers, by name, of the CIFAR sets in torchvision's root directory, or of the one set that `root` is."""
    found: dict[str, Callable[[], Found]] = {}
    for directory in (root, *(root / name for name in SETS)):
        if directory.is_dir() and (files := files_of(directory)):
            found[directory.absolute().name] = partial(open_cifar, directory, files)
    return found


def files_of(directory: Path) -> CifarFiles | None:
    """Recognise the set in a directory by the directory's name, else by its files; None if it is neither."""
    if directory.absolute().name in SETS:
        return SETS[directory.absolute().name]
    # CIFAR-100's names (train, test) are those of directories in other data sets.
    return next((found for found in SETS.values() if all((directory / n).is_file() for n in found.train)), None)


def open_cifar(directory: Path, files: CifarFiles) -> Found:
    """Open the set: 32 x 32 RGB, the pixels held in memory (184 MB for either set)."""
    meta = load(directory / files.meta) if (directory / files.meta).is_file() else {}
    classes = _class_names(directory / files.meta, meta, files)
    count = meta.get("num_cases_per_batch") if files.classes == 10 else None
    sources = []
    for title, names in (("train", files.train), ("test", files.test)):
        batches, labels = zip(*(_batch(directory / name, files, count) for name in names), strict=True)
        sources.append(Pixels(np.concatenate(batches), [*chain(*labels)], classes, f"{directory} {title} image"))
    return Found(*sources, notes=[])


def _class_names(path: Path, meta: dict[str, Any], files: CifarFiles) -> list[str]:
    names = meta.get(files.names)
    if not meta:
        return [str(number) for number in range(files.classes)]
    if not isinstance(names, list) or len(names) != files.classes:
        raise DataError(f"{path} must name {files.classes} classes as {files.names!r}")
    return [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names]


def _batch(path: Path, files: CifarFiles, count: object) -> tuple[np.ndarray, list[int]]:
    """Read (pixels (N, 32, 32, 3), labels) of one file."""
    if not path.is_file():
        raise DataError(f"{path} is missing: the download is incomplete")
    found = load(path)
    data, labels = found.get("data"), found.get(files.label)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        said = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else "none"
        raise DataError(f"{path} must hold 'data' as uint8 of shape (images, 3072); it has {said}")
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path} must hold {files.label!r} as a list of integers")
    wrong = next((label for label in labels if not 0 <= label < files.classes), None)
    if wrong is not None:
        raise DataError(f"{path} has the label {wrong}; expected 0 to {files.classes - 1}")
    if not len(labels) == len(data) > 0:
        raise DataError(f"{path} has {len(data)} images and {len(labels)} labels")
    if isinstance(count, int) and count != len(data):
        raise DataError(f"{path} has {len(data)} images; {files.meta} says {count}")
    # A row is all red, then all green, then all blue pixels.
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels
