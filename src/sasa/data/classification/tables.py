"""Images with a table of labels beside them: Hugging Face's metadata.csv or .jsonl, Kaggle's train.csv."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

from sasa.data.classification.source import Found, Source, number_labels
from sasa.data.directories import (
    HELD_OUT,
    SPLITS,
    exact_split,
    files_in,
    find_layout,
    has_images_below,
    split_of,
    sub_directories,
)
from sasa.data.image_names import find_images
from sasa.data.images import SUFFIXES as IMAGES
from sasa.data.source import FileSource
from sasa.data.text import NameTable, listed, printable, read_text
from sasa.errors import DataError

KIND = "a table of images"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
MOST_TEXTS = 20  # text files named for splits in a directory: more are captions
# Names of columns, in order of preference.
NAMES = tuple("file_name filename file image_path path filepath image image_name image_id img id image_index".split())
LABELS = tuple(
    "label labels class class_name category target species breed diagnosis dx classid class_id finding_labels".split()
)

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
        self.labels, self.classes = number_labels(where, [label for _, _, label in rows], classes)
        self._directory, self._names = str(directory), NameTable(names)
        if classes is None and (combined := _combined(self.classes)):
            self.description.append(
                f"{where} has labels such as {combined!r}, each of which is taken as one class: images with several "
                "labels are not supported"
            )

    def directories(self) -> set[Path]:
        """The directories that hold the images."""
        parents = {self.path_below(index).rpartition("/")[0] for index in range(len(self))}
        return {Path(self._directory, parent) for parent in parents}


def _combined(labels: list[str]) -> str | None:
    """Return a label that is made of parts of others: "haze primary" where there are "haze" and "clear primary"."""
    parts = {label: set(re.split(r"\s*[|;,]\s*|\s+", label)) for label in labels}
    counts = Counter(part for found in parts.values() for part in found)
    return next((label for label in labels if len(parts[label]) > 1 and all(counts[p] > 1 for p in parts[label])), None)


def look(path: Path) -> dict[str, Callable[[], Found]]:
    """Return an opener of the tables with names and labels of images in a directory, or of one table.

    A table beside class directories is ignored: it often repeats their names. So are samples of submissions, and text
    files that are not named for a split.
    """
    if path.is_file():
        return {KIND: partial(_open, path, [path])} if path.suffix.lower() in SUFFIXES else {}
    inner = [directory for directory in sub_directories(path) if exact_split(directory.name)]
    tables = _tables(path) or [table for directory in inner for table in _tables(directory)]
    if not tables or _has_classes(path):
        return {}
    usable = [table for table in tables if _is_usable(table)]
    return {KIND: partial(_open, path, usable)} if usable else {}


def why_not(directory: Path) -> str:
    """Return why the first table in a directory cannot be used, or ""."""
    try:
        for table in _tables(directory):
            _rows(table, "train")
    except DataError as error:
        return str(error)
    return ""


def _tables(directory: Path) -> list[Path]:
    texts = [path for path in files_in(directory, ".txt") if split_of(path.stem)[0]]
    texts = texts if len(texts) <= MOST_TEXTS else []
    return [path for path in files_in(directory, *SUFFIXES[:-1]) if "submission" not in path.stem.lower()] + texts


def _is_usable(table: Path) -> bool:
    header, records = _records(table, 1)
    return _columns(header) is not None or _one_hot(header, records) is not None


def _has_classes(root: Path) -> bool:
    try:
        train = find_layout(root).train
    except DataError:
        return False
    return sum(map(has_images_below, sub_directories(train))) > 1


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
    directories = train.directories() | (other.directories() if other else set())
    images = sum(len(files_in(directory, *IMAGES)) for directory in directories)
    if (unlisted := images - sum(len(rows) for _, rows in by_split.values())) > 0:
        notes.append(f"not used: {unlisted} images in the same directories that are in no table")
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


def _columns(header: list[str]) -> tuple[str, str] | None:
    """(column of names, column of labels); None if there are not both."""
    lower = {re.sub(r"\W+", "_", column.strip().lower()): column for column in header}
    name = next((lower[column] for column in NAMES if column in lower), None)
    label = next((lower[column] for column in LABELS if column in lower and lower[column] != name), None)
    if name and not label and len(header) == 2:  # Kaggle's tables of two columns
        label = next(column for column in header if column != name)
    return (name, label) if name is not None and label is not None else None


def _one_hot(header: list[str], records: list[Record]) -> list[str] | None:
    """The columns of classes, with 1 for the class of the image and 0 for the others; None if there are none."""
    classes = header[1:]
    numbers = all(record[column] in ("0", "1", "0.0", "1.0") for _, record in records for column in classes)
    is_name = bool(header) and re.sub(r"\W+", "_", header[0].lower()) in NAMES
    return classes if is_name and len(classes) > 1 and records and numbers else None


def read_rows(table: Path) -> list[Row] | None:
    """Read the images and labels of a table without splits; None if it has no such columns."""
    return [row for rows in _rows(table, "train").values() for row in rows] if _is_usable(table) else None


def _rows(table: Path, split: str) -> dict[str, list[Row]]:
    """Group the rows by split: that of the table, or of its column "split"."""
    header, records = _records(table)
    columns, classes = _columns(header), _one_hot(header, records)
    if columns is None and classes is None:
        raise DataError(
            f"{printable(table)} has the columns {listed(header)}: expected one of {', '.join(NAMES)}, and "
            f"one of {', '.join(LABELS)}, or a column of 0 and 1 for each class"
        )
    found: dict[str, list[Row]] = {}
    for line, record in records:
        own = exact_split(record.get("split", "")) or split
        if columns:
            name, label = (record.get(column, "") for column in columns)
        else:
            name, label = record[header[0]], _marked(table, line, record, classes or [])
        label = re.sub(r"^(-?\d+)\.0$", r"\1", label)  # pandas makes floats of integers
        found.setdefault(own, []).append((line, name, label))
    return {split: found[split] for split in SPLITS if split in found}


def _marked(table: Path, line: int, record: dict[str, str], classes: list[str]) -> str:
    marked = [name for name in classes if float(record[name])]
    if len(marked) != 1:
        which = f" ({listed(marked, 3)})" if marked else ""
        raise DataError(
            f"{printable(table)} line {line} marks {len(marked)} classes{which}: images with one label each are read"
        )
    return marked[0]


def _records(table: Path, most: int | None = None) -> tuple[list[str], list[Record]]:
    """Return (names of the columns, rows) of a table: all rows, or the first ones.

    A table without names of columns begins with an image; its first two columns are the name and the label.

    Raises:
        DataError: a line is damaged, or two columns have the same name.
    """
    text, where = read_text(table), printable(table)
    if table.suffix.lower() == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        records = [(n, _json_values(table, n, line)) for n, line in lines[:most]]
        return list(records[0][1]) if records else [], records
    rows = _text_rows(text) if table.suffix.lower() == ".txt" else _csv_rows(where, text)
    first = next(rows, (0, []))
    if first[1] and first[1][0].lower().endswith(IMAGES):
        rows = chain([first], rows)
        header = ["file_name", "label", *map(str, range(3, len(first[1]) + 1))][: len(first[1])]
    else:
        header = first[1]
    if twice := [column for column in header if header.count(column) > 1]:
        raise DataError(f"{where} has two columns {twice[0]!r}")
    return header, list(islice(_by_column(where, header, rows), most))


def _text_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, values) of a text file, which are separated by tabs, or by spaces where there are no tabs."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, [value.strip() for value in (line.split("\t") if "\t" in line else line.split())]


def _csv_rows(where: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, values) of a CSV file, which are separated by commas, semicolons or tabs."""
    between = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True, skipinitialspace=True)
    try:
        yield from ((rows.line_num, [cell.strip() for cell in row]) for row in rows if row)
    except csv.Error as error:
        raise DataError(f"{where} line {rows.line_num} is damaged: {error}") from error


def _by_column(where: str, header: list[str], rows: Iterable[tuple[int, list[str]]]) -> Iterator[Record]:
    for number, values in rows:
        if len(values) != len(header):
            raise DataError(f"{where} line {number} has {len(values)} columns; the first line has {len(header)}")
        yield number, dict(zip(header, values, strict=True))


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
