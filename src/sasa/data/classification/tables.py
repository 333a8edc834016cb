"""Images with a table of labels beside them: Hugging Face's metadata.csv or .jsonl, Kaggle's train.csv."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sasa.data.classification.source import Found, Source, number_labels
from sasa.data.classification.table_files import SUFFIXES, Record, Table, read_table
from sasa.data.directories import files_in, find_layout, has_images_below, look_through, sub_directories
from sasa.data.findings import describe_unlisted
from sasa.data.image_names import find_images
from sasa.data.naming import SPLITS, choose_splits, exact_split, split_of
from sasa.data.source import FileSource
from sasa.data.text import NameTable, listed, printable
from sasa.errors import DataError

KIND = "a table of images"
MOST_TEXTS = 20  # text files named for splits in a directory: more are captions
# Names of columns without spaces and underscores, in order of preference.
NAMES = tuple(
    "filename file imagepath path filepath filepaths image imagename imagefile imageid img imgname imgpath id idcode "
    "fname imageindex".split()
)
LABELS = tuple(
    "label labels class classname category target species breed diagnosis dx classid findinglabels level".split()
)
SPLIT_COLUMNS = ("split", "subset", "set", "dataset", "partition", "usage", "phase", "fold", "istrain", "isvalid")
BOXES = ({"xmin", "ymin", "xmax", "ymax"}, {"x1", "y1", "x2", "y2"}, {"bbox"})
_MISSING = ("", "nan", "null")  # labels, in lower case
_FALSE = ("0", "0.0", "false", "no")


class Row(NamedTuple):
    """An image of a table: line, name, label ("" if it has none), and the split that the table states."""

    line: int
    name: str
    label: str
    split: str | None


class Columns(NamedTuple):
    """The columns of a table that are used.

    Args:
        name: of the image.
        label: None where there is a column of 0 and 1 for each class.
        classes: those columns.
        split: None where there is none.
        boxes: columns of boxes, which are not used.
    """

    name: str
    label: str | None
    classes: list[str]
    split: str | None
    boxes: list[str]


class ImageTable(FileSource, Source):
    """Images that a table names, with their labels; words and whole numbers are the names of classes.

    Args:
        table: the file, for errors.
        rows: of the table.
        directories: possible directories of the images.
        classes: class names in the order of their labels; by default those of the table, sorted (numbers by value).

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
    inner = [directory for directory in sub_directories(root) if exact_split(directory.name)]
    return _tables(root) or [table for directory in inner for table in _tables(directory)]


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


def _open(root: Path, tables: list[Path], notes: list[str]) -> Found:
    stated = {table: _split(root, table) for table in tables}
    used = [t for t in tables if stated[t]] if "train" in stated.values() else tables
    notes = notes + [f"not used: {printable(t)} (its name says no split)" for t in tables if t not in used]
    by_split: dict[str, tuple[Path, list[Row]]] = {}
    places: dict[Path, list[Path]] = {}
    for table in used:
        rows, more = read_rows(table)
        notes += more
        if rows and not stated[table] and not any(row.split for row in rows):  # the directories may state it
            where, names = printable(table), [row.name for row in rows]
            directory, names, more = find_images(where, _directories(table, "train"), names)
            rows, places[table] = [row._replace(name=n) for row, n in zip(rows, names, strict=True)], [directory]
            notes += more
        for split, group in _by_split(rows, stated[table]).items():
            if split in by_split:
                names = listed((printable(t.name) for t in (by_split[split][0], table)), 3)
                raise DataError(
                    f"{printable(root)} holds several tables for the {split} split ({names}): give one of them"
                )
            by_split[split] = table, group
    for split in [split for split in by_split if split != "train" and _is_unlabelled(by_split[split][1])]:
        notes.append(f"not used: the {split} rows of {printable(by_split.pop(split)[0])} (they have no labels)")
    if not by_split:
        raise DataError(f"{printable(root)} has tables without rows")
    held_out, more = choose_splits(printable(root), by_split, lambda split: f"the {split} rows")

    def source(split: str, classes: list[str] | None = None) -> ImageTable:
        table, rows = by_split[split]
        return ImageTable(table, rows, places.get(table) or _directories(table, split), classes)

    train = source("train")
    other = source(held_out, train.classes) if held_out else None
    notes += [*more, *train.description, *(other.description if other else []), *describe_unlisted(train, other)]
    place = printable(by_split[held_out][0]) if held_out else ""
    return Found(train, other, notes, (printable(by_split["train"][0]), place))


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


def _is_unlabelled(rows: list[Row]) -> bool:
    return all(row.label in ("", "-1") for row in rows)


def _directories(table: Path, split: str) -> list[Path]:
    """List possible directories of a table's images: its own, the only one beside it, or the one of its split."""
    home = table.parent
    inner = sub_directories(home)
    own = [d for d in inner if split_of(d.name)[0] == split]
    return [home, *own, *(d for d in inner if not split_of(d.name)[0])]


def columns_of(table: Table) -> Columns | None:
    """Find the columns of names and labels; None if there are not both."""
    known = {_key(column): column for column in reversed(table.columns)}
    name = next((known[key] for key in NAMES if key in known), None)
    split = next((known[key] for key in SPLIT_COLUMNS if key in known), None)
    boxes = next((keys for keys in BOXES if keys <= set(known)), set())
    others = [column for column in table.columns if column not in (name, split)]
    if name is None or not others:
        return None
    label = next((known[key] for key in LABELS if known.get(key) in others), None)
    if label is None and len(others) == 1 and not boxes:  # Kaggle's tables of two columns
        label = others[0]
    if label is None and not (len(others) > 1 and _one_hot(table.records, others)):
        return None
    return Columns(name, label, [] if label else others, split, [c for c in table.columns if _key(c) in boxes])


def _key(column: str) -> str:
    return re.sub(r"[\W_]+", "", column.lower())


def _one_hot(records: list[Record], columns: list[str]) -> bool:
    values = {record[column] for _, record in records for column in columns}
    return bool(values) and values <= {"0", "1", "0.0", "1.0"}


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Read (rows, sentences about what is not used) of a table.

    Raises:
        DataError: it has no columns of names and labels, or several rows with boxes for one image.
    """
    table, where = read_table(path), printable(path)
    columns = columns_of(table)
    if columns is None:
        raise DataError(
            f"{where} has the columns {listed(table.columns)}: expected one of names (file_name, image, path, id, ...) "
            "and one of labels (label, class, category, ...), or a column of 0 and 1 for each class"
        )
    notes = []
    if columns.boxes:
        advice = "to train on boxes, write them in the format of COCO, Pascal VOC or YOLO"
        if len({record[columns.name] for _, record in table.records}) < len(table.records):
            raise DataError(f"{where} has boxes ({listed(columns.boxes)}), several for one image: {advice}")
        notes.append(f"not used: the boxes in {where} ({listed(columns.boxes)}); {advice}")
    splits = _splits_named(table, columns.split)
    if columns.split and not splits:
        notes.append(f"not used: the column {columns.split!r} of {where} (its values are no names of splits)")
    rows, unknown = [], 0
    for line, record in table.records:
        split = splits.get(record.get(columns.split or "", ""))
        unknown += bool(splits) and split is None
        if not record.get(columns.name):
            raise DataError(f"{where} line {line} has no name of an image")
        if split or not splits:
            label = record.get(columns.label, "") if columns.label else _marked(where, line, record, columns.classes)
            rows.append(Row(line, record[columns.name], "" if label.lower() in _MISSING else label, split))
    if unknown:
        notes.append(f"not used: {unknown} rows of {where} whose {columns.split!r} is not the name of a split")
    return rows, notes


def _splits_named(table: Table, column: str | None) -> dict[str, str]:
    """The splits that the values of a column stand for; empty if none does, as the numbers of folds."""
    if column is None:
        return {}
    values = {record.get(column, "") for _, record in table.records}
    if _key(column) in ("istrain", "isvalid"):
        yes, no = ("train", "val") if _key(column) == "istrain" else ("val", "train")
        return {value: no if value.lower() in _FALSE else yes for value in values}
    return {value: split for value in values if (split := split_of(value)[0])}


def _marked(where: str, line: int, record: dict[str, str], classes: list[str]) -> str:
    values = {name: record[name] for name in classes}
    if not _one_hot([(line, values)], classes):
        raise DataError(f"{where} line {line} has values other than 0 and 1 in its columns of classes")
    marked = [name for name in classes if float(values[name])]
    if len(marked) != 1:
        which = f" ({listed(marked, 3)})" if marked else ""
        raise DataError(f"{where} line {line} marks {len(marked)} classes{which}: images with one label each are read")
    return marked[0]
