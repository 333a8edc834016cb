"""Data sets whose files hold many images each: splits by the names of files or directories."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sasa.data.classification.source import Found, Source, UnlabelledError
from sasa.data.directories import files_in, find_layout, sub_directories
from sasa.data.naming import choose_splits, split_of
from sasa.data.text import listed, not_used, printable


def open_split_files(path: Path, kind: str, suffix: str, make: Callable[..., Source]) -> dict[str, Callable[[], Found]]:
    """Return an opener, under the name `kind`, of a file or of the files in a directory; {} if none has the suffix.

    `make` makes a source of (files, classes or None).
    """
    if path.is_file():
        found = ([path], [], []) if path.name.lower().endswith(suffix) else ([], [], [])
    else:
        found = find_files(path, suffix)
    return {kind: partial(_open, make, *found)} if found[0] else {}


def _open(make: Callable[..., Source], train: list[Path], other: list[Path], notes: list[str]) -> Found:
    source, held_out = make(train), None
    notes = [*notes, *_missing(train), *_missing(other), *source.description]
    try:
        held_out = make(other, source.classes) if other else None
        notes += held_out.description if held_out else []
    except UnlabelledError as error:
        notes.append(f"not used: {error}")
        other = []
    return Found(source, held_out, notes, (_place(train), _place(other)))


def _missing(files: list[Path]) -> list[str]:
    """Return a sentence if the names of the files (`train-00000-of-00005.parquet`) say that there are more."""
    parts = [match for file in files if (match := re.search(r"-(\d{5})-of-(\d{5})\b", file.name))]
    expected = {int(number) for part in parts for number in range(int(part[2]))}
    if missing := sorted(expected - {int(part[1]) for part in parts}):
        return [f"missing: {len(missing)} of the files to which {printable(files[0])} belongs, {listed(missing, 5)}"]
    return []


def _place(files: list[Path]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{printable(files[0])}{more}" if files else ""


def find_files(root: Path, suffix: str) -> tuple[list[Path], list[Path], list[str]]:
    """Return (training files, held-out files, sentences) of the files of a data set that end in `suffix`.

    They are in the directory itself (`train-00000-of-00005.parquet`, `imagenet-val-000.tar`), in train/ and val/, or
    in a directory that holds all of them, such as data/, laid out in either way.
    """
    holds = partial(_holds, suffix, 2)
    if here := files_in(root, suffix):
        train, other, notes = _by_name(root, here)
        inner = [d for d in sub_directories(root) if (d.name.lower() == "data" or split_of(d.name)[0]) and holds(d)]
        return train, other, [*notes, *not_used(inner, f"the files are those directly in {printable(root)}")]
    if not holds(root):
        return [], [], []
    layout = find_layout(root, holds)
    train = files_in(layout.train, suffix)
    if layout.held_out:
        return train, files_in(layout.held_out, suffix), layout.sentences()
    train, other, notes = _by_name(layout.train, train)
    return train, other, [*layout.sentences(), *notes]


def _holds(suffix: str, depth: int, directory: Path) -> bool:
    """Return whether there are such files in a directory, or below, but for class directories: they may be large."""
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
    titles = {split: listed((printable(file.name) for file in group), 5) for split, group in splits.items()}
    held_out, notes = choose_splits(printable(root), splits, titles.__getitem__)
    return splits["train"], splits[held_out] if held_out else [], notes
