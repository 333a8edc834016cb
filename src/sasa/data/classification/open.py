"""Open any data set for classification; its format is recognised by its contents."""

from pathlib import Path

import numpy as np

from sasa.data.classification import cifar, class_folders, idx, parquet, shards, tables
from sasa.data.classification.shards import TarShards, expand
from sasa.data.classification.source import Digits, Found, Look, Source, Subset
from sasa.data.directories import NoImagesError, has_images, sub_directories
from sasa.data.findings import check_fraction, describe_duplicates, describe_split
from sasa.data.formats import check_single, hint, recognise
from sasa.data.naming import exact_split
from sasa.data.text import printable, system_errors
from sasa.errors import DataError
from sasa.files import check_no_variables, expand_user

# The formats. A format is a module with a function `look`, and a line here.
FORMATS: tuple[Look, ...] = (cifar.look, idx.look, parquet.look, shards.look, tables.look)
LOOKED_FOR = (
    "a directory for each class (or train/ and val/ of them), *.parquet, *.tar shards, metadata.csv or train.csv, "
    "cifar-10-batches-py/, cifar-100-python/, MNIST/raw/ and FashionMNIST/raw/"
)


def open_splits(data: str, held_out: float, seed: int) -> tuple[Source, Source]:
    """Open the training images and the held-out images of a data set; their `description` says what was found.

    Args:
        data: "digits"; or a directory: of class directories, of parquet files as Hugging Face publishes them, of
            WebDataset's tar files, of images with a table of labels, or torchvision's root directory of CIFAR-10,
            CIFAR-100, MNIST or Fashion-MNIST; or one parquet file, tar file or table; or a pattern of tar files,
            `DIR/train-{0000..0012}.tar`. Splits are directories or files with train and val (or validation, test, ...)
            in their names.
        held_out: the fraction held out, drawn class by class with `seed`, where the data has no split of its own.
        seed: seed of that draw.

    Raises:
        DataError: no such path, an unknown format, or images of one class only; names the path.
    """
    found = _open(data)
    train, other = found.train, found.held_out
    if len(set(train.labels)) < 2:
        name, why = train.classes[train.labels[0]], _advice(expand_user(data))
        raise DataError(
            f"{data} holds images of one class only, {name!r} ({len(train)} images): expected two classes or more, "
            f"each in a directory of its own or with a label of its own{why and f'; {why}'}"
        )
    place, other_place = found.places
    if other is None:
        train, other = split(train, held_out, seed)
        other_place = f"{held_out:g} of each class, drawn with seed {seed}"
    notes = list(dict.fromkeys(found.notes))
    train.description = [*notes, *describe_split("training", place or printable(data), train, train.counts())]
    described = describe_split("held-out", other_place, other, other.counts())
    other.description = [*described, *describe_duplicates(train, other)]
    return train, other


def split(source: Source, held_out: float, seed: int) -> tuple[Subset, Subset]:
    """Hold out a fraction of the images, class by class; the same for the same seed.

    Of a class with two images or more, one at least is held out and one at least is left.

    Raises:
        DataError: the fraction is not between 0 and 1, or each class has one image only.
    """
    check_fraction(held_out)
    generator, labels = np.random.default_rng(seed), np.asarray(source.labels)
    # One stable sort instead of a search for each class, which takes minutes where there are many.
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=1))[:-1])
    train, other = [], []
    for indices in by_class:
        members = generator.permutation(indices)
        count = min(len(members) - 1, max(1, round(len(members) * held_out)))
        other += members[:count].tolist()
        train += members[count:].tolist()
    if not other:
        raise DataError(f"no image can be held out: {len(train)} images, each the only one of its class")
    return Subset(source, sorted(train)), Subset(source, sorted(other))


def _open(data: str) -> Found:
    if data == "digits":
        return Found(Digits(), None, [])
    root = expand_user(data)
    check_no_variables(data)
    if "{" in data and not root.exists():
        shards = TarShards(expand(data))
        return Found(shards, None, [*shards.description])
    with system_errors(root):
        return _open_path(root)


def _open_path(root: Path) -> Found:
    found = recognise(root, FORMATS) if root.exists() else {}
    if not found and not root.is_dir():
        raise DataError(
            (root.is_file() and hint(root))
            or f"{str(root)!r} is not a directory, a parquet, tar, CSV or JSONL file, a pattern of tar files, or the "
            "built-in set 'digits'"
        )
    packed = [kind for kind in found if kind != tables.KIND]  # tables are read only where there are no classes
    check_single(root, [*found, *(["class directories"] if packed and _has_classes(root) else [])])
    if found:
        return next(iter(found.values()))()
    if not any(root.iterdir()):
        raise DataError(f"{root} is empty")
    try:
        return class_folders.open_class_folders(root)
    except NoImagesError as error:
        raise DataError(f"{error}; {_advice(root) or f'looked for {LOOKED_FOR}'}") from error


def _advice(root: Path) -> str:
    return (tables.why_not(root) or hint(root)) if root.is_dir() else ""


def _has_classes(root: Path) -> bool:
    """Return whether the first class directories hold images: archives often lie beside their unpacked content."""
    if not root.is_dir():
        return False
    train = next((d for d in sub_directories(root) if exact_split(d.name) == "train"), root)
    return any(map(has_images, sub_directories(train)[:3]))
