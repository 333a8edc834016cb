"""Images with a table of labels beside them: Hugging Face's metadata.csv or .jsonl, Kaggle's train.csv."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sasa.data.classification.source import Found, Source, number_labels
from sasa.data.classification.table_columns import Row, columns_of, read_rows
from sasa.data.classification.table_files import SUFFIXES, read_table
from sasa.data.directories import files_in, find_layout, has_images_below, look_through, sub_directories
from sasa.data.findings import describe_unlisted
from sasa.data.image_names import find_images
from sasa.data.naming import SPLITS, choose_splits, exact_split, is_of_masks, split_of
from sasa.data.source import FileSource
from sasa.data.text import NameTable, not_used, printable
from sasa.errors import DataError

KIND = "a table of images"
MOST_TEXTS = 20  # text files named for splits in a directory: more are captions


class ImageTable(FileSource, Source):
    """Images that a table names, in one of several directories, with their labels; classes are as for `number_labels`.

    Raises:
        DataError: an image is missing or listed twice, or its label is missing or not in `classes`.
    """

    def __init__(
        self, table: Path, rows: Sequence[Row], directories: Sequence[Path], classes: list[str] | None = None
    ) -> None:
        where = printable(table)
        if bare := next((row.line for row in rows if not row.label), None):
            raise DataError(f"{where} line {bare} has no label")
        directory, names, self.description = find_images(where, directories, [row.name for row in rows])
        self.labels, self.classes = number_labels(where, [row.label for row in rows], classes)
        self._directory, self._names = str(directory), NameTable(names)
        if classes is None and (combined := _combined(self.classes)):
            self.description.append(
                f"{where} has labels such as {combined!r}, each of which is taken as one class: images with several "
                "labels are not supported"
            )


def _combined(labels: list[str]) -> str | None:
    """Return a label that is made of parts of others: "haze primary" where there are "haze" and "clear primary"."""
    if joined := next((label for label in labels if "|" in label), None):
        return joined
    parts = {label: set(re.findall(r"[^\s|;,'\"\[\]]+", label)) for label in labels}
    counts = Counter(part for found in parts.values() for part in found)
    return next((label for label in labels if len(parts[label]) > 1 and all(counts[p] > 1 for p in parts[label])), None)


def look(path: Path) -> dict[str, Callable[[], Found]]:
    """Return an opener of the tables with names and labels of images in a directory, or of one table.

    A table beside class directories is ignored: it often repeats their names. So are samples of submissions, and text
    files that are not named for a split.
    """
    if path.is_file():
        return {KIND: partial(_open, path, [path], [])} if path.suffix.lower() in SUFFIXES else {}
    notes: list[str] = []
    if not (tables := _tables_of_splits(path)):
        path, notes = look_through(path, lambda directory: bool(_tables_of_splits(directory)))
        tables = _tables_of_splits(path)
    if not tables or _has_classes(path):
        return {}
    notes += not_used(unused_tables(path, tables), f"the labels are those of the tables in {printable(path)}")
    usable = [table for table in tables if columns_of(read_table(table, 1))]
    notes += [f"not used: {printable(t)} (it has no column of labels)" for t in tables if t not in usable]
    return {KIND: partial(_open, path, usable, notes)} if usable else {}


def why_not(directory: Path) -> str:
    """Return why the first table in a directory cannot be used, or ""."""
    try:
        for table in _tables(directory):
            read_rows(table)
    except DataError as error:
        return str(error)
    return ""


def _tables_of_splits(root: Path) -> list[Path]:
    return _tables(root) or _tables_in_splits(root)


def _tables_in_splits(root: Path) -> list[Path]:
    return [table for d in sub_directories(root) if exact_split(d.name) for table in _tables(d)]


def unused_tables(root: Path, used: Collection[Path] = ()) -> list[Path]:
    """List the tables in a directory, and in its directories of splits, that are not used."""
    return [table for table in (*_tables(root), *_tables_in_splits(root)) if table not in used]


def _tables(directory: Path) -> list[Path]:
    texts = [path for path in files_in(directory, ".txt") if split_of(path.stem)[0]]
    texts = texts if len(texts) <= MOST_TEXTS else []
    return [path for path in files_in(directory, *SUFFIXES[:-1]) if "submission" not in path.stem.lower()] + texts


def _has_classes(root: Path) -> bool:
    try:
        train = find_layout(root).train
    except DataError:
        return False
    return sum(map(has_images_below, sub_directories(train))) > 1


class _Part(NamedTuple):
    """The rows of a split: their table, and possible directories of their images."""

    table: Path
    rows: list[Row]
    directories: list[Path]

    def open(self, classes: list[str] | None = None) -> ImageTable:
        return ImageTable(self.table, self.rows, self.directories, classes)


def _open(root: Path, tables: list[Path], notes: list[str]) -> Found:
    parts, more = _parts(root, tables)
    notes = notes + more
    for split, part in list(parts.items()):
        if split != "train" and all(row.label in ("", "-1") for row in part.rows):
            del parts[split]
            notes.append(f"not used: the {split} rows of {printable(part.table)} (they have no labels)")
    if not parts:
        raise DataError(f"{printable(root)} has tables without rows")
    held_out, more = choose_splits(printable(root), parts, lambda split: f"the {split} rows")
    train = parts["train"].open()
    other = parts[held_out].open(train.classes) if held_out else None
    notes += [*more, *train.description, *(other.description if other else []), *describe_unlisted(train, other)]
    place = printable(parts[held_out].table) if held_out else ""
    return Found(train, other, notes, (printable(parts["train"].table), place))


def _parts(root: Path, tables: list[Path]) -> tuple[dict[str, _Part], list[str]]:
    """(rows of each split, sentences); the split is that of the column, of the table, or of the image's directory."""
    stated = {table: _split(root, table) for table in tables}
    used = [t for t in tables if stated[t]] if "train" in stated.values() else tables
    notes = [f"not used: {printable(t)} (its name says no split)" for t in tables if t not in used]
    parts: dict[str, _Part] = {}
    for table in used:
        rows, more = read_rows(table)
        notes += more
        place = None
        if rows and not stated[table] and not any(row.split for row in rows):
            place, names, more = find_images(printable(table), _directories(table, "train"), [r.name for r in rows])
            rows = [row._replace(name=name) for row, name in zip(rows, names, strict=True)]
            notes += more
        for split, group in _by_split(rows, stated[table]).items():
            if split in parts:
                raise DataError(
                    f"{printable(root)} holds several tables for the {split} split "
                    f"({printable(parts[split].table.name)}, {printable(table.name)}): give one of them"
                )
            parts[split] = _Part(table, group, [place] if place else _directories(table, split))
    return parts, notes


def _split(root: Path, table: Path) -> str | None:
    """Return the split that a table's name or directory states; None for a table given by its path."""
    if table == root:
        return None
    directory = exact_split(table.parent.name) if table.parent != root else None
    return directory or split_of(table.stem)[0]


def _by_split(rows: list[Row], stated: str | None) -> dict[str, list[Row]]:
    """Group rows by the split of their column, of the table, or of the directory in the image's name."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        directories = re.split(r"[/\\]", row.name)[:-1]
        named = next(filter(None, map(exact_split, directories)), None)
        found.setdefault(row.split or stated or named or "train", []).append(row)
    if stated is None and "train" not in found and not any(row.split for row in rows):
        return {"train": rows} if rows else {}
    return {split: found[split] for split in SPLITS if split in found}


def _directories(table: Path, split: str) -> list[Path]:
    """List possible directories of a table's images: its own, those of its split, the others beside it; masks last."""
    home = table.parent
    inner = sub_directories(home)
    own = [d for d in inner if split_of(d.name)[0] == split]
    return [home, *own, *sorted((d for d in inner if not split_of(d.name)[0]), key=lambda d: is_of_masks(d.name))]
