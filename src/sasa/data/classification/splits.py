"""Training and held-out images: by the names that data sets give them, or drawn."""

import re
from pathlib import Path

import numpy as np

from sasa.data.classification.source import Source, Subset
from sasa.errors import DataError

TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "validation", "valid", "test")

Files = tuple[list[Path], list[Path]]


def split_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first sub-folder of `root` that bears one of the names."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def find_files(root: Path, suffix: str, deeper: bool = True) -> Files:
    """(training, held-out) files of a data set that end in `suffix`; the second is empty where none is marked.

    Looked for in the folder itself (`train-00000-of-00005.parquet`, `imagenet-val-000.tar`), in train/ and val/, and
    in data/, or the only sub-folder, laid out in either way.
    """
    here = files_in(root, suffix)
    if here:
        return _by_name(here)
    train, other = split_folder(root, TRAIN_NAMES), split_folder(root, HELD_OUT_NAMES)
    if train and (found := files_in(train, suffix)):
        return found, files_in(other, suffix) if other else []
    inner = [root / "data"] if (root / "data").is_dir() else sub_folders(root)
    return find_files(inner[0], suffix, deeper=False) if len(inner) == 1 and deeper else ([], [])


def files_in(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that end in `suffix`, sorted; hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.name.endswith(suffix) and p.name[0] != "." and p.is_file())


def sub_folders(root: Path) -> list[Path]:
    """The folders in a folder; hidden ones left out."""
    return [p for p in root.iterdir() if p.is_dir() and p.name[0] != "."]


def _by_name(files: list[Path]) -> Files:
    """Sort files by the first word of their names that names a split; without such words, all are for training."""
    words = {file: _split_word(file.name) for file in files}
    train = [file for file in files if words[file] in TRAIN_NAMES]
    other = next((found for name in HELD_OUT_NAMES if (found := [f for f in files if words[f] == name])), [])
    return (train, other) if train else (files, [])


def _split_word(name: str) -> str | None:
    words = re.findall(r"[a-z]+", name.lower())
    return next((word for word in words if word in TRAIN_NAMES + HELD_OUT_NAMES), None)


def split(source: Source, held_out: float, seed: int) -> tuple[Source, Source]:
    """Hold out a fraction of the images, class by class; the same for the same seed."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(source.labels)
    # One stable sort instead of a search for each class, which takes minutes where there are many.
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=1))[:-1])
    train, other = [], []
    for indices in by_class:
        members = generator.permutation(indices)
        count = max(1, round(len(members) * held_out)) if len(members) > 1 else 0
        other += members[:count].tolist()
        train += members[count:].tolist()
    if not train or not other:
        raise DataError(f"{len(source)} images are too few to hold out a fraction of {held_out}")
    return Subset(source, sorted(train)), Subset(source, sorted(other))
