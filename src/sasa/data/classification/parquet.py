"""Parquet files as Hugging Face publishes image data sets: a column of {bytes, path} and one of labels."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from sasa.data.classification.source import Found, Source, UnlabelledError, number_labels
from sasa.data.classification.split_files import open_split_files
from sasa.data.images import read_image
from sasa.data.source import fingerprint
from sasa.data.text import check_fetched, listed, not_used, printable
from sasa.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

IMAGES = ("image", "img", "jpg", "png")
LABELS = ("label", "labels", "fine_label", "class", "cls", "target", "category")
HELD = 1 << 30  # bytes
LARGEST = (1 << 31) - 1  # bytes of images in a row group: arrow counts them with 32 bits
KEPT = 512 << 20  # bytes of row groups in each process


class Part(NamedTuple):
    """A row group with rows in it."""

    path: Path
    group: int  # number in the file
    first: int  # the row of the file that it begins with
    rows: int


class ImageParquet(Source):
    """Rows of parquet files: images as {bytes, path} or as bytes, labels as integers or words.

    Images of up to `held` bytes in all are held in memory, encoded as they are in the files; forked workers share them.
    In larger sets row groups are read on demand, and each process keeps the last 512 MiB of them and two more: enough
    for the window of images that training shuffles together, up to 130 kB an image, so that an epoch reads a row group
    once in each worker, or twice where it lies in two windows. In an order that ignores `groups`, which are then the
    row groups, each image may need one to be read. Files of a single row group of, say, 500 MB, as some tools write,
    need 1.5 GB in each process: rewrite such a set with a smaller `row_group_size`.

    An image whose bytes are null is read from its path beside the parquet file, never from outside its directory.

    Args:
        paths: the files; images are ordered as they are in them. Empty files and row groups are skipped.
        classes: class names in the order of their labels, for files that do not name the classes.
        held: bytes.

    Raises:
        DataError: a file is damaged or lacks a column, labels are not whole numbers or words, or not of the classes.
    """

    def __init__(self, paths: list[Path], classes: list[str] | None = None, held: int = HELD) -> None:
        self._parts: list[Part] = []
        labels, own_classes, column, size, unused = [], None, "", 0, list[str]()
        for path in paths:
            with opened(path) as file:
                # Labels, positions of images and `groups` are all derived from this list.
                parts = _parts(path, file)
                if not parts:
                    continue  # an empty file: writers give its columns the type null
                image, label = _image_column(path, file), _column(path, file, LABELS, UnlabelledError)
                if column not in ("", image):
                    raise DataError(f"{printable(path)} has a column {image!r} where {paths[0]} has {column!r}")
                column = image
                labels += _labels(path, file, label, sum(part.rows for part in parts))
                unused = unused or _unused_columns(path, file, image, label)
                names = _class_names(file, label)
                if own_classes and names not in (None, own_classes):
                    raise DataError(f"{printable(path)} numbers other classes than {printable(paths[0])}")
                own_classes = own_classes or names
                self._parts += parts
                size += _size(path, file, image)
        if not self._parts:
            raise DataError(f"{printable(paths[0])} holds no images: it has no rows")
        self._starts = list(accumulate((part.rows for part in self._parts), initial=0))
        where = printable(paths[0])
        if classes is not None and own_classes not in (None, classes):
            raise DataError(f"{where} has other classes than the training images")
        self.labels, self.classes = number_labels(where, labels, own_classes or classes)
        self._row_groups = RowGroups(self._parts, column, hold=size <= held)
        if size > held:
            self.groups = [group for group, part in enumerate(self._parts) for _ in range(part.rows)]
        self.description = unused
        if empty := [printable(p.name) for p in paths if p not in {part.path for part in self._parts}]:
            self.description.append(f"no rows in {listed(empty)} of {printable(paths[0].parent)}")

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Read the image of row `index`."""
        content, path = self._encoded(index)
        if content is None and path is None:
            raise DataError(f"{self.name(index)} has neither bytes nor a path")
        if content is None:
            return read_image(self._beside(index, str(path)), channels=channels)
        return read_image(content, self.name(index), channels)

    def _encoded(self, index: int) -> tuple[bytes | None, str | None]:
        """(bytes, path) of a row."""
        group = bisect_right(self._starts, index) - 1
        try:
            value = self._row_groups[group][index - self._starts[group]].as_py()
        except ValueError as error:
            raise DataError(f"{self.name(index)} is damaged: its path is not UTF-8") from error
        return (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)

    def _beside(self, index: int, path: str) -> Path:
        """Return the file that a row names, if it lies in the parquet file's directory, with links resolved."""
        directory = self._parts[bisect_right(self._starts, index) - 1].path.parent
        relative = PurePosixPath(path)
        place = directory / path
        try:
            inside = place.resolve().is_relative_to(directory.resolve())
            there = inside and place.is_file()
        except (OSError, RuntimeError, ValueError):  # a cycle of links; a zero byte in the name
            inside, there = True, False
        if relative.is_absolute() or ".." in relative.parts or not inside:
            raise DataError(f"{self.name(index)} names the file {path!r}, outside of {directory}: nothing was read")
        if not there:
            raise DataError(f"{self.name(index)} names the file {path!r}, which is not in {directory}")
        return place

    def name(self, index: int) -> str:
        """The file and the row in it, counted from 0."""
        group = bisect_right(self._starts, index) - 1
        part = self._parts[group]
        return f"{printable(part.path)} row {part.first + index - self._starts[group]}"

    def fingerprint(self, index: int) -> bytes | None:
        """Hash of the bytes, for images in memory."""
        content = self._encoded(index)[0] if self.groups is None else None
        return content and fingerprint(lambda start, size: content[start : start + size], len(content))


def look(path: Path) -> dict[str, Callable[[], Found]]:
    """Return openers, by name, of the data in `path`: a parquet file, or a directory of them."""
    return open_split_files(path, "parquet files", ".parquet", ImageParquet)


class RowGroups:
    """A column of images, by row groups: all held in memory, or the ones used last. They are not pickled.

    Otherwise each process keeps its own: up to `kept` bytes and two row groups more, those in which a window of the
    sampler begins and ends. A file is open only while a row group of it is read.
    """

    def __init__(self, parts: list[Part], column: str, hold: bool, kept: int = KEPT) -> None:
        self._parts, self._column, self._kept = parts, column, kept
        self._held = [self._load(group) for group in range(len(parts))] if hold else None
        self._forget()

    def __reduce__(self):
        return RowGroups, (self._parts, self._column, self._held is not None, self._kept)

    def _forget(self) -> None:
        self._process, self._lock = os.getpid(), Lock()
        self._recent: OrderedDict[int, Any] = OrderedDict()  # the one used last at the end
        self._size = 0

    def __getitem__(self, group: int) -> Any:
        """Row group `group`, counted over all parts, as an arrow array."""
        if self._held is not None:
            return self._held[group]
        if self._process != os.getpid():
            self._forget()
        with self._lock:
            if group not in self._recent:
                new = self._recent[group] = self._load(group)
                self._size += new.nbytes
                while self._size > self._kept + 2 * new.nbytes:
                    self._size -= self._recent.popitem(last=False)[1].nbytes
            self._recent.move_to_end(group)
            return self._recent[group]

    def _load(self, group: int) -> Any:
        path, number, _, rows = self._parts[group]
        with opened(path) as file:
            # Without threads: a forked process does not have its parent's threads.
            images = file.read_row_group(number, columns=[self._column], use_threads=False).column(0).combine_chunks()
        if len(images) != rows:
            raise DataError(f"{printable(path)} has {len(images)} rows in row group {number}; expected {rows}")
        return images


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file for a `with` block, and turn pyarrow's errors in it into `DataError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        with path.open("rb") as start:
            check_fetched(printable(path), start.read(100))
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{printable(path)} is not a whole parquet file: {message}") from error


def _parts(path: Path, file: pq.ParquetFile) -> list[Part]:
    counts = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
    firsts = accumulate(counts, initial=0)
    return [Part(path, n, first, rows) for n, (first, rows) in enumerate(zip(firsts, counts, strict=False)) if rows]


def _column(path: Path, file: pq.ParquetFile, names: tuple[str, ...], missing: type[DataError] = DataError) -> str:
    columns = file.schema_arrow.names
    for name in names:
        if name in columns:
            return name
    raise missing(f"{printable(path)} has columns {', '.join(columns)}; expected one of {', '.join(names)}")


def _unused_columns(path: Path, file: pq.ParquetFile, image: str, label: str) -> list[str]:
    """Return a sentence about columns that could be those of the images or of the labels as well."""
    others = [name for name in file.schema_arrow.names if name in (*IMAGES, *LABELS) and name not in (image, label)]
    where = f"the columns of {printable(path)} that are read are {image!r} and {label!r}"
    return not_used(map(repr, others), where)


def _image_column(path: Path, file: pq.ParquetFile) -> str:
    import pyarrow as pa

    name = _column(path, file, IMAGES)
    kind: Any = _decoded(file.schema_arrow.field(name).type)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = _decoded(kind.field("bytes").type)
    accepted = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    if not any(is_of(kind) for is_of in accepted):
        raise DataError(f"{printable(path)}: column {name!r} must hold {{bytes, path}}; it holds {kind}")
    return name


def _decoded(kind: Any) -> Any:
    """Return the type of a column's values, which for a dictionary-encoded column is that of the dictionary."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _labels(path: Path, file: pq.ParquetFile, label: str, rows: int) -> list[int] | list[str]:
    """Read the labels of all rows, integers or words. Whole numbers in a column of floats become integers."""
    import pyarrow as pa

    kind = _decoded(file.schema_arrow.field(label).type)
    words = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (words or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{printable(path)}: column {label!r} must hold integers or words; it holds {kind}")
    labels = file.read(columns=[label], use_threads=False).column(label).to_pylist()
    if len(labels) != rows:
        raise DataError(f"{printable(path)} has {len(labels)} labels and {rows} images")
    for row, value in enumerate(labels):
        if value is None or value != value:
            raise DataError(f"{printable(path)} row {row} has no label")
        if isinstance(value, float) and not value.is_integer():
            raise DataError(f"{printable(path)} row {row} has the label {value}; expected a whole number or a word")
    return labels if words else [int(value) for value in labels]


def _size(path: Path, file: pq.ParquetFile, image: str) -> int:
    """Return the size of a file's images in memory, in bytes."""
    metadata, sizes = file.metadata, []
    for group in range(metadata.num_row_groups):
        columns = (metadata.row_group(group).column(n) for n in range(metadata.num_columns))
        sizes.append(sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == image))
    if max(sizes, default=0) > LARGEST:
        raise DataError(
            f"{printable(path)} has a row group of {max(sizes)} bytes of images; expected {LARGEST} at most: "
            "write it again with a smaller row_group_size"
        )
    return sum(sizes)


def _class_names(file: pq.ParquetFile, label: str) -> list[str] | None:
    """Read the class names that Hugging Face's datasets library stores in a file's metadata, if it did."""
    metadata = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(metadata)["info"]["features"][label]["names"] if metadata else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
