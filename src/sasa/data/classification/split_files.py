"""Data sets whose files hold many images each: splits by the names of files or directories."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sasa.data.classification.source import Found, Source
from sasa.data.directories import HELD_OUT, files_in, find_layout, split_of, sub_directories
from sasa.data.text import listed, printable
from sasa.errors import DataError


def open_split_files(path: Path, kind: str, suffix: str, make: Callable[..., Source]) -> dict[str, Callable[[], Found]]:
    """Return an opener, under the name `kind`, of a file or of the files in a directory; {} if there are no such files.

    Args:
        path: the file or directory.
        kind: what to call the files.
        suffix: of their names.
        make: makes a source of (files, classes or None).

    Raises:
        DataError: as `find_files`.
    """
    if path.is_file():
        found = ([path], [], []) if path.name.lower().endswith(suffix) else ([], [], [])
    else:
        found = find_files(path, suffix)
    return {kind: partial(_open, make, *found)} if found[0] else {}


def _open(make: Callable[..., Source], train: list[Path], other: list[Path], notes: list[str]) -> Found:
    source = make(train)
    held_out = make(other, source.classes) if other else None
    notes = [*notes, *source.description, *(held_out.description if held_out else [])]
    return Found(source, held_out, notes, (_place(train), _place(other)))


def _place(files: list[Path]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{printable(files[0])}{more}" if files else ""


def find_files(root: Path, suffix: str) -> tuple[list[Path], list[Path], list[str]]:
    """Return (training files, held-out files, sentences) of the files of a data set that end in `suffix`.

    They are in the directory itself (`train-00000-of-00005.parquet`, `imagenet-val-000.tar`), in train/ and val/, or
    in a directory that holds all of them, such as data/, laid out in either way.

    Raises:
        DataError: there are files for testing but none for training.
    """
    if here := files_in(root, suffix):
        return _by_name(root, here)
    holds = partial(_holds, suffix, 2)
    if not holds(root):
        return [], [], []
    layout = find_layout(root, holds)
    train = files_in(layout.train, suffix)
    if layout.held_out:
        return train, files_in(layout.held_out, suffix), layout.sentences()
    train, other, notes = _by_name(layout.train, train)
    return train, other, [*layout.sentences(), *notes]


def _holds(suffix: str, depth: int, directory: Path) -> bool:
    """Return whether there are such files in a directory, or in the subdirectories that are searched.

    Class directories are not listed: they may hold a million images.
    """
    if files_in(directory, suffix):
        return True
    inner = sub_directories(directory)
    likely = [d for d in inner if len(inner) == 1 or d.name.lower() == "data" or split_of(d.name)[0]]
    return depth > 0 and any(_holds(suffix, depth - 1, sub) for sub in likely)


def _by_name(root: Path, files: list[Path]) -> tuple[list[Path], list[Path], list[str]]:
    """Sort files by the split in their names; without any, all are for training."""
    splits: dict[Any, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.name.split(".")[0])[0], []).append(file)
    if set(splits) <= {None}:
        return files, [], []
    if "train" not in splits:
        names = listed((printable(file.name) for file in files), 3)
        raise DataError(f"{printable(root)} holds {names} but no file for training, such as train-0{files[0].suffix}")
    held_out = next((split for split in HELD_OUT if split in splits), None)
    other = splits[held_out] if held_out else []
    notes = []
    for split, group in splits.items():
        if group not in (splits["train"], other):
            names = listed((printable(file.name) for file in group), 5)
            why = f"{held_out} is the held-out split" if split else "no split in their names"
            notes.append(f"not used in {printable(root)}: {names} ({why})")
    return splits["train"], other, notes
