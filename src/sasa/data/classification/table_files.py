"""Tables on disk: CSV, TSV, JSON lines and lists of images, as records by the names of their columns."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sasa.data.images import SUFFIXES as IMAGES
from sasa.data.text import is_number, printable, read_text, repeated
from sasa.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
_AFTER_IMAGE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGES))}))\s+(.*)", re.IGNORECASE)

Cells = tuple[int, list[str]]  # line, values
Record = tuple[int, dict[str, str]]  # line, values by column


class Table(NamedTuple):
    """A table: its file, the names of its columns, its rows."""

    path: Path
    columns: list[str]
    records: list[Record]


def read_table(path: Path, most: int | None = None) -> Table:
    """Read a table: all rows, or the first ones.

    The columns of a table whose first line names an image, or of a list of two columns, are called "file_name",
    "label" and by their numbers.

    Raises:
        DataError: the file cannot be read, a line is damaged, or two columns have the same name.
    """
    text, where = read_text(path), printable(path)
    if path.suffix.lower() == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        records = [(n, _json_values(where, n, line)) for n, line in lines[:most]]
        return Table(path, list(dict.fromkeys(key for _, record in records for key in record)), records)
    is_list = path.suffix.lower() == ".txt"
    rows = list(_list_rows(text) if is_list else _csv_rows(where, text))
    first = rows[0][1] if rows else []
    bare = any(cell.lower().endswith(IMAGES) for cell in first) or (is_list and len(first) == 2 and not _named(first))
    columns = _numbered(rows) if bare else first
    if twice := repeated(columns):
        raise DataError(f"{where} has two columns {twice[0]!r}")
    return Table(path, columns, list(_by_column(where, columns, rows[not bare :][:most])))


def _named(cells: list[str]) -> bool:
    return bool({"file_name", "filename", "image", "path", "id", "image_id", "label"} & {c.lower() for c in cells})


def _numbered(rows: Sequence[Cells]) -> list[str]:
    """Columns without names: the label is the only other one, or the only one of words."""
    first = rows[0][1]
    name = next((place for place, cell in enumerate(first) if cell.lower().endswith(IMAGES)), 0)
    others = [place for place in range(len(first)) if place != name]
    words = [place for place in others if not all(is_number(row[place]) for _, row in rows if place < len(row))]
    labels = others if len(others) == 1 else words
    columns = [str(place) for place in range(1, len(first) + 1)]
    columns[name] = "file_name"
    if len(labels) == 1:
        columns[labels[0]] = "label"
    return columns


def _list_rows(text: str) -> list[Cells]:
    """(line, values) of a list: values are separated by tabs, commas or spaces; file names and labels may have spaces.

    Lines of different lengths have a name and a label of several words.
    """
    rows: list[Cells] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line := line.strip():
            between = next((mark for mark in "\t," if mark in line), None)
            image = None if between else _AFTER_IMAGE.fullmatch(line)
            values = [image[1], *image[2].split()] if image else line.split(between)
            rows.append((number, [value.strip() for value in values]))
    if len({len(values) for _, values in rows}) > 1 and min(len(values) for _, values in rows) > 1:
        return [(number, [values[0], " ".join(values[1:])]) for number, values in rows]
    return rows


def _csv_rows(where: str, text: str) -> Iterator[Cells]:
    """(line, values) of a CSV file, which are separated by commas, semicolons or tabs."""
    between = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True, skipinitialspace=True)
    try:
        yield from ((rows.line_num, [cell.strip() for cell in row]) for row in rows if row)
    except csv.Error as error:
        raise DataError(f"{where} line {rows.line_num} is damaged: {error}") from error


def _by_column(where: str, columns: list[str], rows: Sequence[Cells]) -> Iterator[Record]:
    for number, values in rows:
        if len(values) != len(columns):
            raise DataError(f"{where} line {number} has {len(values)} columns; the first line has {len(columns)}")
        yield number, dict(zip(columns, values, strict=True))


def _json_values(where: str, line: int, text: str) -> dict[str, str]:
    """Values of an object by key: a list of words becomes one text with | between them, other containers are left."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} line {line} is damaged: not JSON") from error
    if not isinstance(values, dict):
        raise DataError(f"{where} line {line} is not an object in JSON")
    lists = {key: "|".join(map(str, value)) for key, value in values.items() if isinstance(value, list)}
    plain = {key: "" if v is None else str(v) for key, v in values.items() if not isinstance(v, dict | list)}
    return {str(key): (plain | lists)[key] for key in values if key in plain or key in lists}
