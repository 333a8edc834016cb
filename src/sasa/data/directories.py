"""Layouts of data sets: names of splits, directories that only wrap others, and system files to ignore."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sasa.data.images import SUFFIXES
from sasa.data.text import listed, printable
from sasa.errors import DataError

SPLITS = ("train", "val", "test")
HELD_OUT = ("val", "test")  # splits to hold out, the preferred one first

_SPLIT_WORDS = {
    "train": "train training trn trainval trainings entrenamiento treino entrainement",
    "val": "val valid validation validate dev devel eval evaluation heldout holdout validierung",
    "test": "test testing tst prueba teste",
}
_SPLIT_OF = {word: split for split, words in _SPLIT_WORDS.items() for word in words.split()}
# Words without a meaning in a name: "train_images" is the training split, but "bullet_train" may be a class.
_FILLERS = frozenset(
    "set sets data dataset datasets split subset image images img imgs photo photos picture pictures pic pics frame "
    "frames file files folder dir directory jpg jpeg jpegs png jpegimages daten the of for all raw".split()
)
_MASKS = frozenset(
    "mask masks label labels annotation annotations segmentation segmentations trimaps gt groundtruth".split()
)
_PARTS = frozenset("image images img imgs photos part batch fold chunk set dataset".split())
# Directories made by operating systems, network drives and tools. Names with a dot in front are left out as well.
_SYSTEM = frozenset(
    "__macosx @eadir @tmp #recycle @recycle @recently-snapshot $recycle.bin recycler lost+found __pycache__ "
    "thumbs.db ehthumbs.db desktop.ini".split()
) | {"system volume information"}


class NoImagesError(DataError):
    """There are no class directories with images."""


def is_clutter(name: str) -> bool:
    """Return whether a file or directory is hidden, or was left by the operating system (`__MACOSX`, `Thumbs.db`)."""
    return name.startswith(".") or name.lower() in _SYSTEM


def sub_directories(root: Path) -> list[Path]:
    """The directories in a directory, sorted, without clutter."""
    with os.scandir(root) as entries:  # pathlib would make a system call for each of a million files
        return sorted(root / entry.name for entry in entries if not is_clutter(entry.name) and entry.is_dir())


def files_in(directory: Path, *suffixes: str) -> list[Path]:
    """The files of a directory whose names end in one of the suffixes (in any case), sorted, without clutter."""
    return sorted(
        p for p in directory.iterdir() if p.name.lower().endswith(suffixes) and not is_clutter(p.name) and p.is_file()
    )


def child(root: Path, *names: str) -> Path | None:
    """The first directory in `root` that has one of the names, in any case."""
    there = {path.name.lower(): path for path in reversed(sub_directories(root))} if root.is_dir() else {}
    return next((there[name.lower()] for name in names if name.lower() in there), None)


def clutter(root: Path) -> list[str]:
    """Return sentences about the directories in `root` that are ignored as clutter."""
    names = sorted(path.name for path in root.iterdir() if is_clutter(path.name) and path.is_dir())
    return (
        [f"ignored in {printable(root)}: {listed(printable(n) + '/' for n in names)} (hidden, or left by a system)"]
        if names
        else []
    )


def split_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the split that a name stands for, and the other words of the name.

    "Train2017", "training_set", "TRAIN-images" and "trainset" are ("train", ()), "seg_train" is ("train", ("seg",)),
    "cat" is (None, ("cat",)). A name that holds words of several splits stands for none, but for "train_val", which
    is the training split.
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+", name)
    words = [
        _unglued(word.lower()) for word in re.sub(r"\b(held|hold) out\b", r"\1out", " ".join(words), flags=re.I).split()
    ]
    splits = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    rest = tuple(word for word in words if word not in _SPLIT_OF and word not in _FILLERS)
    if splits == {"train", "val"}:
        return "train", rest
    return (splits.pop(), rest) if len(splits) == 1 else (None, rest or tuple(words))


def _unglued(word: str) -> str:
    """Remove a filler from the end of a split: "trainset" and "trainimages" give "train"; other words are unchanged."""
    match = re.fullmatch(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({'|'.join(_FILLERS)})", word)
    return match[1] if match else word


def exact_split(name: str) -> str | None:
    """Return the split that a name stands for, or None if the name has other words too."""
    split, rest = split_of(name)
    return None if rest else split


def by_split(directories: Iterable[Path]) -> dict[str, Path]:
    """Map splits to the directories that are named for them.

    Raises:
        DataError: two are named for the same split.
    """
    found: dict[str, Path] = {}
    for directory in directories:
        split = split_of(directory.name)[0]
        if split in found:
            raise DataError(
                f"{printable(directory.parent)} holds two directories for the {split} split, "
                f"{printable(found[split].name)}/ and {printable(directory.name)}/: move one away"
            )
        if split:
            found[split] = directory
    return found


def has_images(directory: Path) -> bool:
    """Return whether there are images directly in a directory."""
    with os.scandir(directory) as entries:
        return any(e.name.lower().endswith(SUFFIXES) and not is_clutter(e.name) and not e.is_dir() for e in entries)


def has_images_below(directory: Path) -> bool:
    """Return whether there are images in a directory or anywhere below it."""
    return has_images(directory) or any(
        has_images_below(sub) for sub in sub_directories(directory) if not sub.is_symlink()
    )


def has_image_directories(directory: Path) -> bool:
    """Return whether a directory has subdirectories with images, at any depth, that may be classes.

    A single one that repeats the name, or is named for a split or no more than "images", is not a class:
    test/test/1.jpg, test/images/1.jpg.
    """
    full = [sub for sub in sub_directories(directory) if has_images_below(sub)]
    named = [sub for sub in full if not _says_nothing(sub.name) and sub.name != directory.name]
    return len(full) > 1 or any(sub in named or not has_images(sub) for sub in full)


def _says_nothing(name: str) -> bool:
    return exact_split(name) is not None or is_of_images(name)


def is_of_images(name: str) -> bool:
    """Return whether a directory is named "images", "data" or the like, which says nothing about a class."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    return bool(words) and _FILLERS.issuperset(words)


def is_of_masks(name: str) -> bool:
    """Return whether a directory is named for masks of images: "masks", "SegmentationClass", "ground_truth"."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    return not _MASKS.isdisjoint([*words, "".join(words)]) and len(words) < 3


@dataclass
class Layout:
    """The directories of a data set's splits.

    Args:
        train: directory of the training images, or of all images.
        held_out: directory of the images to hold out, if there is one.
        notes: sentences about the directories that were entered and those that are ignored.
        unused: why other directories beside those of the splits are not used.
    """

    train: Path
    held_out: Path | None = None
    notes: list[str] = field(default_factory=list)
    unused: dict[Path, str] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """All that is to be said about the layout."""
        return [*self.notes, *(f"not used: {printable(path)}/ ({why})" for path, why in self.unused.items())]


def find_layout(root: Path, holds: Callable[[Path], bool] = has_image_directories) -> Layout:
    """Find the splits below a directory.

    Args:
        root: the directory. If its only content is another directory (`photos/photos/`), that one is searched.
        holds: whether a directory holds data, which makes a directory named for a split one. By default: directories
            of images, one for each class.

    Raises:
        DataError: directories are named for splits but hold no data, there is one for testing and none for training,
            two are named for the same split, or splits lie inside of class directories.
    """
    layout = _splits(root, holds)
    if layout is None:
        inner, notes = look_through(root, holds)
        layout = find_layout(inner, holds) if inner != root else Layout(root)
        layout.notes = notes + [note for note in layout.notes if note not in notes]
        return layout
    layout.train, notes = look_through(layout.train, holds)
    layout.notes += notes
    return layout


def look_through(root: Path, holds: Callable[[Path], bool] = has_image_directories) -> tuple[Path, list[str]]:
    """Return (directory, sentences): `root`, or its one subdirectory with all of the data, as in unpacked archives.

    It is the only subdirectory, or the only one with images if it is named "images", "data" or the like, or as
    `root` is. A directory with images directly in it is a class.
    """
    directories, notes = sub_directories(root), clutter(root)
    full = [d for d in directories if has_images_below(d) or holds(d)]
    if len(full) != 1 or has_images(root) or has_images(full[0]) or not holds(full[0]):
        return root, notes
    inner = full[0]
    others = [d for d in directories if d != inner]
    if others and not _says_nothing(inner.name) and inner.name != root.absolute().name:
        return root, notes
    if others:
        notes.append(f"ignored in {printable(root)}: {_named(others)} (no images)")
    deeper, more = look_through(inner, holds) if not _splits(inner, holds) else (inner, [])
    return deeper, [*notes, f"entered {printable(inner)}/, which holds all images", *more]


def _splits(root: Path, holds: Callable[[Path], bool]) -> Layout | None:
    """Return the splits of a directory, None if its subdirectories are not splits."""
    directories = sub_directories(root)
    named = [d for d in directories if exact_split(d.name)]
    full = [d for d in named if holds(d)] or _sharing_a_word(directories, holds)
    if not full:
        _refuse_flat_splits(root, directories)
        _refuse_splits_in_classes(directories)
        _refuse_parts(root, directories)
        return None
    found = by_split(full)
    if "train" not in found:
        raise DataError(
            f"{printable(root)} holds {_named(full)} but no directory with images for training: expected train/CLASS/ "
            f"beside {_named(full[:1])}"
        )
    held_out = next((found[split] for split in HELD_OUT if split in found), None)
    others = (directory for directory in directories if directory not in (found["train"], held_out))
    return Layout(found["train"], held_out, clutter(root), {d: _unused(d, held_out, holds(d)) for d in others})


def _unused(directory: Path, held_out: Path | None, holds: bool) -> str:
    if holds and held_out and split_of(directory.name)[0] in HELD_OUT:
        return f"{printable(held_out.name)}/ is the held-out split"
    if split_of(directory.name)[0] and not holds:
        return "its images are in no directories of classes" if has_images_below(directory) else "it holds no data"
    return "it is beside the directories of the splits"


def _sharing_a_word(directories: Sequence[Path], holds: Callable[[Path], bool]) -> list[Path]:
    """Directories such as seg_train/ and seg_test/: one for training that holds data, others that differ by the split.

    Raises:
        DataError: there are several such sets, or they hold images directly (cat_train/, cat_test/).
    """
    groups: dict[tuple[str, ...], list[Path]] = {}
    for directory in directories:
        split, rest = split_of(directory.name)
        if split and rest:
            groups.setdefault(rest, []).append(directory)
    several = [group for group in groups.values() if _has_training_and_other(split_of(d.name)[0] for d in group)]
    if not several:
        return []
    full = [[d for d in group if holds(d)] for group in several]
    if len(several) > 1 or "train" not in {split_of(d.name)[0] for d in full[0]}:
        raise DataError(
            f"{printable(several[0][0].parent)} holds {_named(d for group in several for d in group)}, which are named "
            "for splits: expected train/CLASS/ and val/CLASS/, with a directory of images for each class"
        )
    return full[0]


def _has_training_and_other(splits: Iterable[str | None]) -> bool:
    named = set(splits) - {None}
    return "train" in named and len(named) > 1


def _refuse_flat_splits(root: Path, directories: list[Path]) -> None:
    """Refuse directories named for splits that hold images without classes; a single one beside others is a class."""
    flat = [d for d in directories if exact_split(d.name) and has_images_below(d)]
    others = [d for d in directories if not exact_split(d.name) and has_images_below(d)]
    if len({exact_split(d.name) for d in flat}) > 1 or (flat and not others):
        raise NoImagesError(
            f"{printable(root)} holds {_named(flat)} with images that are in no directory of a class: "
            f"expected a directory for each class, as in {printable(flat[0].name)}/CLASS/"
        )


def _refuse_parts(root: Path, directories: list[Path]) -> None:
    """Refuse images_part_1/, images_part_2/ as classes, but not class_1/, class_2/."""
    full = [d for d in directories if has_images_below(d)]
    words = {tuple(re.findall(r"[^\W\d_]+", d.name.lower())) for d in full}
    if len(full) > 1 and len(words) == 1 and _PARTS.intersection(words.pop()):
        raise DataError(
            f"{printable(root)} holds {_named(full)}, whose names are not classes but parts of one directory: expected "
            "a directory for each class, or a table of labels such as train.csv"
        )


def _refuse_splits_in_classes(directories: list[Path]) -> None:
    if len(directories) < 2:
        return
    for place in filter(None, map(_holder_of_splits, directories)):
        inner = [d for d in sub_directories(place) if exact_split(d.name)]
        raise DataError(
            f"{printable(place)} holds {_named(inner)} inside of what would be a class: expected "
            f"train/CLASS/ and val/CLASS/; or give the path of {printable(place)} itself"
        )


def _holder_of_splits(directory: Path, depth: int = 4) -> Path | None:
    """The directory itself, or one in it, that holds directories named for training and another split."""
    if has_images(directory):
        return None
    inner = sub_directories(directory)
    if _has_training_and_other(exact_split(d.name) for d in inner):
        return directory
    return next(filter(None, (_holder_of_splits(d, depth - 1) for d in inner)), None) if depth else None


def _named(directories: Iterable[Path]) -> str:
    return listed((f"{printable(d.name)}/" for d in directories), 5)
