"""The meaning of a table's columns: names of images, labels, splits, boxes that are not used."""

import re
from pathlib import Path
from typing import NamedTuple

from sasa.data.classification.table_files import Record, Table, read_table
from sasa.data.naming import split_of
from sasa.data.text import listed, printable
from sasa.errors import DataError

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
_TRUE, _FALSE = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")


class Row(NamedTuple):
    """An image of a table: line, name, label ("" if it has none), and the split that the table states."""

    line: int
    name: str
    label: str
    split: str | None


class Columns(NamedTuple):
    """The columns of a table."""

    name: str  # of the image
    label: str | None  # None where there is a column of 0 and 1 for each class
    classes: list[str]  # those columns
    split: str | None
    boxes: list[str]  # which are not used


def columns_of(table: Table) -> Columns | None:
    """Find the columns of names and labels; None if there are not both."""
    known = {_key(column): column for column in reversed(table.columns)}
    name, split = (next((known[k] for k in keys if k in known), None) for keys in (NAMES, SPLIT_COLUMNS))
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
    values = {record.get(column) for _, record in records for column in columns}  # lines of JSON may lack some
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
        if len({record.get(columns.name) for _, record in table.records}) < len(table.records):
            raise DataError(f"{where} has boxes ({listed(columns.boxes)}), several for one image: {advice}")
        notes.append(f"not used: the boxes in {where} ({listed(columns.boxes)}); {advice}")
    if others := [column for column in table.columns if _key(column) in LABELS and column != columns.label]:
        notes.append(f"not used: {listed(map(repr, others))} of {where} (the labels are those of {columns.label!r})")
    column, splits, more = _splits_stated(table, columns)
    notes += more
    rows, unknown = [], 0
    for line, record in table.records:
        split = splits.get(record.get(column, ""))
        unknown += bool(splits) and split is None
        if not record.get(columns.name):
            raise DataError(f"{where} line {line} has no name of an image")
        if split or not splits:
            label = record.get(columns.label, "") if columns.label else _marked(where, line, record, columns.classes)
            rows.append(Row(line, record[columns.name], "" if label.lower() in _MISSING else label, split))
    if unknown:
        notes.append(f"not used: {unknown} rows of {where} whose {column!r} is not the name of a split")
    return rows, notes


def _splits_stated(table: Table, columns: Columns) -> tuple[str, dict[str, str], list[str]]:
    """Return (the first column whose values name splits, the split of each value, sentences about other columns)."""
    others = [column for column in table.columns if column not in (columns.name, columns.label, *columns.classes)]
    named = {column: _splits_named(table, column) for key in SPLIT_COLUMNS for column in others if _key(column) == key}
    column = next((column for column, splits in named.items() if splits), "")
    where, notes = printable(table.path), []
    for other in (other for other in named if other != column):
        why = f"the splits are those of {column!r}" if named[other] else "its values are no names of splits"
        notes.append(f"not used: the column {other!r} of {where} ({why})")
    return column, named.get(column, {}), notes


def _splits_named(table: Table, column: str) -> dict[str, str]:
    """The splits that the values of a column stand for; empty if none does, as the numbers of folds."""
    values = {record.get(column, "") for _, record in table.records}
    if _key(column) in ("istrain", "isvalid"):
        yes, no = ("train", "val") if _key(column) == "istrain" else ("val", "train")
        split_of_word = dict.fromkeys(_TRUE, yes) | dict.fromkeys(_FALSE, no)
        return {value: split_of_word[value.lower()] for value in values if value.lower() in split_of_word}
    return {value: split for value in values if (split := split_of(value)[0])}


def _marked(where: str, line: int, record: dict[str, str], classes: list[str]) -> str:
    marked = [name for name in classes if float(record[name])]
    if len(marked) != 1:
        which = f" ({listed(marked, 3)})" if marked else ""
        raise DataError(f"{where} line {line} marks {len(marked)} classes{which}: images with one label each are read")
    return marked[0]
