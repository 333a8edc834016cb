"""Directories of data sets: which hold the splits, which only wrap others, and system files to ignore."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sasa.data.images import SUFFIXES
from sasa.data.naming import HELD_OUT, PARTS, by_split, exact_split, is_of_masks, says_nothing, split_of
from sasa.data.text import listed, not_used, printable
from sasa.errors import DataError

# Directories made by operating systems, network drives and tools. Names with a dot in front are left out as well.
_SYSTEM = frozenset(
    "__macosx @eadir @tmp #recycle @recycle @recently-snapshot $recycle.bin recycler lost+found __pycache__ "
    "thumbs.db ehthumbs.db desktop.ini".split()
) | {"system volume information"}
RUN_FILE = "environment.json"  # in the directory of every run of `sasa train`
OF_RUNS = "runs of sasa train"  # why a directory is not used


class NoImagesError(DataError):
    """There are no class directories with images."""


def is_clutter(name: str) -> bool:
    """Return whether a file or directory is hidden, or was left by the operating system (`__MACOSX`, `Thumbs.db`)."""
    return name.startswith(".") or name.lower() in _SYSTEM


def entries(directory: Path | str, *suffixes: str) -> Iterator[os.DirEntry[str]]:
    """Scan a directory, without clutter, for names that end in one of the suffixes, in any case; by default for all."""
    with os.scandir(directory) as found:  # pathlib would make a system call for each of a million files
        yield from (e for e in found if e.name.lower().endswith(suffixes or "") and not is_clutter(e.name))


def sub_directories(root: Path) -> list[Path]:
    """The directories in a directory, sorted, without clutter."""
    return sorted(root / entry.name for entry in entries(root) if entry.is_dir())


def files_in(directory: Path, *suffixes: str) -> list[Path]:
    """The files of a directory whose names end in one of the suffixes (in any case), sorted, without clutter."""
    return [directory / name for name in sorted(e.name for e in entries(directory, *suffixes) if e.is_file())]


def files_below(root: Path, leave_out: Collection[Path] = ()) -> Iterator[str]:
    """The paths of the files anywhere below a directory, except in clutter and in the directories to leave out.

    Links to directories are not followed. A directory that cannot be listed is an error.
    """
    for directory, inner, files in walk(root):
        inner[:] = sorted(name for name in inner if not is_clutter(name) and Path(directory, name) not in leave_out)
        below = directory[len(str(root)) :].lstrip("/")  # os.path.relpath would take seconds for 100,000 files
        yield from (os.path.join(below, file) for file in files)  # noqa: PTH118


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, in which a directory that cannot be listed is an error and not left out; a missing one is empty."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    return os.walk(root, onerror=fail)


def image_names(directory: Path) -> Iterator[str]:
    """The names of the images directly in a directory, also of broken links, which are errors when they are read."""
    images = entries(directory, *SUFFIXES)
    return (e.name for e in images if e.is_file() or (e.is_symlink() and not os.path.exists(e.path)))  # noqa: PTH110


def children(root: Path, *names: str) -> list[Path]:
    """The directories in `root` that have one of the names, in any case, in the order of the names."""
    there = sub_directories(root) if root.is_dir() else []
    return [path for name in names for path in there if path.name.lower() == name.lower()]


def child(root: Path, *names: str) -> Path | None:
    """The first of `children`; raises `DataError` if two names differ in case only."""
    found = children(root, *names)
    if len(found) > 1 and found[0].name.lower() == found[1].name.lower():
        raise DataError(f"{printable(root)} holds both {_named(found[:2])}: move one away")
    return found[0] if found else None


def clutter(root: Path) -> list[str]:
    """Return sentences about the directories in `root` that are ignored as clutter."""
    names = sorted(path.name for path in root.iterdir() if is_clutter(path.name) and path.is_dir())
    listing = listed(f"{printable(name)}/" for name in names)
    return [f"ignored in {printable(root)}: {listing} (hidden, or left by a system)"] if names else []


def has_images(directory: Path) -> bool:
    """Return whether there are images directly in a directory."""
    return any(image_names(directory))


def has_images_below(directory: Path) -> bool:
    """Return whether there are images in a directory or anywhere below it."""
    return has_images(directory) or any(
        has_images_below(sub) for sub in sub_directories(directory) if not sub.is_symlink()
    )


def is_of_runs(directory: Path | str) -> bool:
    """Return whether a directory is a run of `sasa train`, or holds nothing but such runs, as `runs/` does.

    In a directory of data, the figures of a run would be a class of their own the next time.
    """
    if os.path.exists(f"{directory}/{RUN_FILE}"):  # noqa: PTH110
        return True
    found = False
    for entry in entries(directory):
        if not entry.is_dir(follow_symlinks=False) or not is_of_runs(entry.path):
            return False
        found = True
    return found


def runs_in(root: Path) -> list[Path]:
    """The directories in a directory that hold runs, sorted."""
    return [directory for directory in sub_directories(root) if is_of_runs(directory)]


def has_image_directories(directory: Path) -> bool:
    """Return whether a directory has subdirectories with images, at any depth, that may be classes.

    A single one that repeats the name, or is named for a split or no more than "images", is not a class:
    test/test/1.jpg, test/images/1.jpg.
    """
    full = [sub for sub in sub_directories(directory) if has_images_below(sub)]
    named = [sub for sub in full if not says_nothing(sub.name) and sub.name != directory.name]
    return len(full) > 1 or any(sub in named or not has_images(sub) for sub in full)


@dataclass
class Layout:
    """The directories of a data set's splits; the training images are all images where there is no other split."""

    train: Path
    held_out: Path | None = None
    notes: list[str] = field(default_factory=list)  # directories that were entered, or are ignored
    unused: dict[Path, str] = field(default_factory=dict)  # why other directories are not used

    def sentences(self) -> list[str]:
        """All that is to be said about the layout."""
        return [*self.notes, *(f"not used: {printable(path)}/ ({why})" for path, why in self.unused.items())]


def find_layout(root: Path, holds: Callable[[Path], bool] = has_image_directories) -> Layout:
    """Find the splits below a directory, or below its only content, if that is a directory (`photos/photos/`).

    Args:
        root: the directory.
        holds: whether a directory holds data, so that it is a split if it is named for one.

    Raises:
        DataError: directories are named for splits but hold no data, there is one for testing and none for training,
            two are named for the same split, splits lie inside of class directories, or all directories hold others
            of the same names.
    """
    layout = _splits(root, holds)
    if layout is None:
        inner, notes = look_through(root, holds)
        layout = find_layout(inner, holds) if inner != root else Layout(root, unused=_not_classes(root))
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
    full = list(islice((d for d in directories if not is_of_runs(d) and (has_images_below(d) or holds(d))), 2))
    if len(full) != 1 or has_images(root) or has_images(full[0]) or not holds(full[0]):
        return root, notes
    inner, runs = full[0], runs_in(root)
    others = [d for d in directories if d != inner and d not in runs]
    if others and not says_nothing(inner.name) and inner.name != root.absolute().name:
        return root, notes
    notes += not_used(runs, OF_RUNS)
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
        with_images = [d for d in directories if has_images_below(d)]
        _refuse_splits_in_classes(with_images)
        _refuse_parts(root, with_images)
        _refuse_equal_contents(root, with_images)
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
    others = (d for d in directories if not exact_split(d.name))
    if len({exact_split(d.name) for d in flat}) > 1 or (flat and not any(map(has_images_below, others))):
        raise NoImagesError(
            f"{printable(root)} holds {_named(flat)} with images that are in no directory of a class: "
            f"expected a directory for each class, as in {printable(flat[0].name)}/CLASS/"
        )


def _refuse_parts(root: Path, full: list[Path]) -> None:
    """Refuse images_part_1/, images_part_2/ as classes, but not class_1/, class_2/."""
    words = {tuple(re.findall(r"[^\W\d_]+", d.name.lower())) for d in full}
    if len(full) > 1 and len(words) == 1 and not PARTS.isdisjoint(*words):
        raise DataError(
            f"{printable(root)} holds {_named(full)}, whose names are not classes but parts of one directory: expected "
            "a directory for each class, or a table of labels such as train.csv"
        )


def _refuse_equal_contents(root: Path, full: list[Path]) -> None:
    """Refuse color/{cat,dog} beside gray/{cat,dog}, and unknown names of splits: which are the classes?"""
    if len(full) < 2 or any(map(has_images, full)):
        return
    common = set.intersection(*({d.name for d in _inner_directories(directory)} for directory in full))
    if len(common) > 1:
        example = f"{printable(root)}/{printable(full[0].name)}"
        raise DataError(
            f"{printable(root)} holds {_named(full)}, each with directories of the same names "
            f"({listed(map(printable, sorted(common)), 5)}): if those are the classes, give the path of one, such as "
            f"{example}, or name the directories train/ and val/; if not, move their images up"
        )


def _inner_directories(directory: Path) -> list[Path]:
    """The directories in a directory, or in images/ there if it is the only one; without images/ and masks/."""
    inner = sub_directories(directory)
    if len(inner) == 1 and says_nothing(inner[0].name):
        return _inner_directories(inner[0])
    return [d for d in inner if not says_nothing(d.name) and not is_of_masks(d.name)]


def _not_classes(root: Path) -> dict[Path, str]:
    """Directories beside those of the classes that are none: runs, test/ without classes, copies of the whole set."""
    found = dict.fromkeys(runs_in(root), OF_RUNS)
    directories = [directory for directory in sub_directories(root) if directory not in found]
    names = {directory.name for directory in directories}
    if len(directories) < 3:
        return found
    for directory in directories:
        if exact_split(directory.name) in HELD_OUT and has_images_below(directory):
            found[directory] = "its images are in no directories of classes"
        elif not has_images(directory) and len({d.name for d in sub_directories(directory)} & names) > 1:
            found[directory] = "it holds directories of the same names as beside it"
    return found


def _refuse_splits_in_classes(full: list[Path]) -> None:
    if len(full) < 2:
        return
    for place in filter(None, map(_holder_of_splits, full)):
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
