"""Images with a table of labels beside them: Hugging Face's metadata.csv or .jsonl, Kaggle's train.csv."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sasa.data.classification.source import Found, Source, number_words
from sasa.data.directories import (
    HELD_OUT,
    SPLITS,
    exact_split,
    files_in,
    find_layout,
    has_images,
    split_of,
    sub_directories,
)
from sasa.data.image_names import find_images
from sasa.data.source import FileSource
from sasa.data.text import NameTable, listed, printable, read_text
from sasa.errors import DataError

KIND = "a table of images"
SUFFIXES = (".csv", ".tsv", ".jsonl")
# Names of columns, in order of preference.
NAMES = (
    "file_name",
    "filename",
    "file",
    "image_path",
    "path",
    "filepath",
    "image",
    "image_name",
    "image_id",
    "img",
    "id",
)
LABELS = ("label", "labels", "class", "class_name", "category", "target", "species", "breed", "diagnosis", "dx")

Row = tuple[int, str, str]  # line, name of the image, label
Record = tuple[int, dict[str, str]]  # line, values by column


class ImageTable(FileSource, Source):
    """Images that a table names, with their labels; words and whole numbers are the names of classes.

    Args:
        table: the file, for errors.
        rows: of the table: (line, name, label).
        directories: possible directories of the images.
        classes: class names in the order of their labels; by default those of the table, sorted (numbers by value).

    Raises:
        DataError: an image is missing or listed twice, or its label is missing or not in `classes`.
    """

    def __init__(
        self, table: Path, rows: list[Row], directories: Sequence[Path], classes: list[str] | None = None
    ) -> None:
        where = printable(table)
        for line, name, label in rows:
            if not name or not label:
                raise DataError(f"{where} line {line} has no {'label' if name else 'name of an image'}")
        directory, names, self.description = find_images(where, directories, [name for _, name, _ in rows])
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{where} names the image {printable(twice)} twice")
        self.labels, self.classes = number_words(where, [label for _, _, label in rows], classes)
        self._directory, self._names = str(directory), NameTable(names)


def look(path: Path) -> dict[str, Callable[[], Found]]:
    """Return an opener of the tables with names and labels of images in a directory, or of one table.

    A table beside class directories is ignored: it often repeats their names.
    """
    if path.is_file():
        return {KIND: partial(_open, path, [path])} if path.suffix.lower() in SUFFIXES else {}
    inner = [directory for directory in sub_directories(path) if exact_split(directory.name)]
    tables = files_in(path, *SUFFIXES) or [table for directory in inner for table in files_in(directory, *SUFFIXES)]
    if not tables or _has_classes(path):
        return {}
    usable = [table for table in tables if _columns(table)]
    return {KIND: partial(_open, path, usable)} if usable else {}


def _has_classes(root: Path) -> bool:
    try:
        train = find_layout(root).train
    except DataError:
        return False
    return sum(map(has_images, sub_directories(train))) > 1


def _open(root: Path, tables: list[Path]) -> Found:
    splits = {table: _split(root, table) for table in tables}
    used = [t for t in tables if splits[t]] if "train" in splits.values() else tables
    notes = [f"not used: {printable(t)} (its name says no split)" for t in tables if t not in used]
    by_split: dict[str, tuple[Path, list[Row]]] = {}
    for table in used:
        for split, rows in _rows(table, splits[table] or "train").items():
            if split in by_split:
                names = listed((printable(t.name) for t in (by_split[split][0], table)), 3)
                raise DataError(
                    f"{printable(root)} holds several tables for the {split} split ({names}): give one of them"
                )
            by_split[split] = table, rows
    if "train" not in by_split:
        what = f"rows for {listed(by_split)} but none for training" if by_split else "tables without rows"
        raise DataError(f"{printable(root)} has {what}")
    held_out = next((split for split in HELD_OUT if split in by_split), None)
    unused = [split for split in by_split if split not in ("train", held_out)]
    notes += [f"not used: the {split} rows ({held_out} is the held-out split)" for split in unused]
    train = _source("train", *by_split["train"])
    other = _source(held_out, *by_split[held_out], classes=train.classes) if held_out else None
    notes += [*train.description, *(other.description if other else [])]
    place = printable(by_split[held_out][0]) if held_out else ""
    return Found(train, other, notes, (printable(by_split["train"][0]), place))


def _source(split: str, table: Path, rows: list[Row], classes: list[str] | None = None) -> ImageTable:
    return ImageTable(table, rows, _directories(table, split), classes)


def _directories(table: Path, split: str) -> list[Path]:
    """List possible directories of a table's images: its own, the only one beside it, or the one of its split."""
    home = table.parent
    inner = sub_directories(home)
    own = [d for d in inner if split_of(d.name)[0] == split]
    return [home, *own, *(d for d in inner if not split_of(d.name)[0])]


def _split(root: Path, table: Path) -> str | None:
    """Return the split that a table's name or directory states; None for a table given by its path."""
    if table == root:
        return None
    directory = exact_split(table.parent.name) if table.parent != root else None
    return directory or split_of(table.stem)[0]


def _columns(table: Path) -> tuple[str, str] | None:
    """(column of names, column of labels) of a table; None if it does not have both."""
    header, _ = _records(table, 1)
    lower = {column.strip().lower(): column for column in header}
    name = next((lower[column] for column in NAMES if column in lower), None)
    label = next((lower[column] for column in LABELS if column in lower and lower[column] != name), None)
    if name and not label and len(header) == 2:  # Kaggle's tables of two columns
        label = next(column for column in header if column != name)
    return (name, label) if name is not None and label is not None else None


def _rows(table: Path, split: str) -> dict[str, list[Row]]:
    """Group the rows by split: that of the table, or of its column "split"."""
    columns = _columns(table)
    if columns is None:
        raise DataError(
            f"{printable(table)} has no two columns of names and labels: expected one of {', '.join(NAMES)}, and "
            f"one of {', '.join(LABELS)}"
        )
    found: dict[str, list[Row]] = {}
    for line, record in _records(table)[1]:
        own = exact_split(record.get("split", "")) or split
        label = re.sub(r"^(-?\d+)\.0$", r"\1", record.get(columns[1], ""))  # pandas makes floats of integers
        found.setdefault(own, []).append((line, record.get(columns[0], ""), label))
    return {split: found[split] for split in SPLITS if split in found}


def _records(table: Path, most: int | None = None) -> tuple[list[str], list[Record]]:
    """Return (names of the columns, rows) of a table: all rows, or the first ones.

    Raises:
        DataError: a line is damaged.
    """
    text = read_text(table)
    if table.suffix.lower() == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        records = [(n, _json_values(table, n, line)) for n, line in lines[:most]]
        return list(records[0][1]) if records else [], records
    first = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        header = [column.strip() for column in next(rows, [])]
        return header, list(islice(_csv_values(table, header, rows), most))
    except csv.Error as error:
        raise DataError(f"{printable(table)} line {rows.line_num} is damaged: {error}") from error


def _csv_values(table: Path, header: list[str], rows: Any) -> Iterator[Record]:
    for row in filter(None, rows):
        if len(row) != len(header):
            raise DataError(
                f"{printable(table)} line {rows.line_num} has {len(row)} columns; the first line has {len(header)}"
            )
        yield rows.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))


def _json_values(table: Path, line: int, text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{printable(table)} line {line} is damaged: not JSON") from error
    if not isinstance(values, dict):
        raise DataError(f"{printable(table)} line {line} is not an object in JSON")
    return {str(key): _word(value) for key, value in values.items() if not isinstance(value, dict | list)}


def _word(value: object) -> str:
    """Return a label or name as text; null counts as missing."""
    return "" if value is None else str(value)
