"""Parquet as Hugging Face publishes image data sets: a column of {bytes, path} and one of labels."""

from __future__ import annotations

import json
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from sasa.data.classification.names import printable
from sasa.data.classification.parquet_rows import RowGroups, opened
from sasa.data.classification.source import Source, check_labels
from sasa.data.images import read_image
from sasa.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label")
HELD = 1 << 30  # bytes
LARGEST = (1 << 31) - 1  # bytes of images in a row group: arrow counts them with 32 bits


class ImageParquet(Source):
    """Rows of parquet files: images as {bytes, path} or as bytes, labels as integers.

    Only the labels are read whole. Images of up to `held` bytes in all are held in memory, encoded as they are in
    the files; forked workers share them. Of larger sets, row groups are read as they are asked for, and each process
    keeps the last 512 MiB of them and two more: enough for the window of images that training mixes, up to 130 kB
    an image, so that an epoch reads a row group once in each worker, or twice where it lies in two windows. In an
    order without groups each image may cost the reading of a row group. `groups` are the row groups, or None for
    images in memory.

    Row groups are kept whole. Where each file is a single one of, say, 500 MB, as some writers make it, a process
    needs 1.5 GB, so write such a set again with a smaller `row_group_size`.

    An image whose bytes are null is read from its path beside the parquet file, never from outside of its folder.

    Args:
        paths: the files; images are ordered as they are in them.
        classes: names to number by, where the file has none of its own.
        held: bytes.

    Raises:
        DataError: a file that is damaged or lacks a column, labels that are not integers or outside the classes.
    """

    def __init__(self, paths: list[Path], classes: list[str] | None = None, held: int = HELD) -> None:
        self.paths = paths
        self.labels, own_classes, size = [], None, 0
        self._parts: list[tuple[Path, int, int]] = []  # file, row group, and the file's row that it begins with
        rows: list[int] = []
        column = ""
        for path in paths:
            with opened(path) as file:
                image, label = _image_column(path, file), _column(path, file, LABELS)
                if column not in ("", image):
                    raise DataError(f"{printable(path)} has a column {image!r} where {paths[0]} has {column!r}")
                column = image
                self.labels += _labels(path, file, label)
                own_classes = own_classes or _class_names(file, label)
                counts = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
                self._parts += [(path, n, first) for n, first in enumerate(accumulate(counts[:-1], initial=0))]
                rows += counts
                size += sum(_sizes(path, file, image))
        self._starts = list(accumulate(rows, initial=0))
        if not self.labels:
            raise DataError(f"{printable(paths[0])} holds no images")
        if classes is not None and own_classes not in (None, classes):
            raise DataError(f"{printable(paths[0])} has other classes than the training images")
        self.classes = check_labels(printable(paths[0]), self.labels, own_classes or classes)
        self._row_groups = RowGroups([part[:2] for part in self._parts], column, hold=size <= held)
        if size > held:
            self.groups = [group for group, count in enumerate(rows) for _ in range(count)]

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The image of row `index`."""
        group = bisect_right(self._starts, index) - 1
        value = self._row_groups[group][index - self._starts[group]]
        try:
            value = value.as_py()
        except ValueError as error:
            raise DataError(f"{self.name(index)} is damaged: its path is no UTF-8") from error
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is None and path is None:
            raise DataError(f"{self.name(index)} has neither bytes nor a path")
        if content is None:
            return read_image(self._beside(index, str(path)), channels=channels)
        return read_image(content, self.name(index), channels)

    def _beside(self, index: int, path: str) -> Path:
        """The file that a row names, if it lies within the parquet file's folder whatever links there are."""
        folder = self._parts[bisect_right(self._starts, index) - 1][0].parent
        relative = PurePosixPath(path)
        place = folder / path
        try:
            inside = place.resolve().is_relative_to(folder.resolve())
            there = inside and place.is_file()
        except (OSError, RuntimeError, ValueError):  # links in a circle; a zero byte in the name
            inside, there = True, False
        if relative.is_absolute() or ".." in relative.parts or not inside:
            raise DataError(f"{self.name(index)} names the file {path!r}, outside of {folder}: nothing was read")
        if not there:
            raise DataError(f"{self.name(index)} names the file {path!r}, which is not in {folder}")
        return place

    def name(self, index: int) -> str:
        """File and row, counted from 0 in each file."""
        group = bisect_right(self._starts, index) - 1
        path, _, first = self._parts[group]
        return f"{printable(path)} row {first + index - self._starts[group]}"


def _column(path: Path, file: pq.ParquetFile, names: tuple[str, ...]) -> str:
    columns = file.schema_arrow.names
    for name in names:
        if name in columns:
            return name
    raise DataError(f"{printable(path)} has columns {', '.join(columns)}; expected one of {', '.join(names)}")


def _image_column(path: Path, file: pq.ParquetFile) -> str:
    import pyarrow as pa

    name = _column(path, file, IMAGES)
    kind: Any = file.schema_arrow.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
        raise DataError(f"{printable(path)}: column {name!r} must hold {{bytes, path}}; it holds {kind}")
    return name


def _labels(path: Path, file: pq.ParquetFile, label: str) -> list[int]:
    import pyarrow as pa

    kind = file.schema_arrow.field(label).type
    if not pa.types.is_integer(kind):
        raise DataError(f"{printable(path)}: column {label!r} must hold integers; it holds {kind}")
    labels = file.read(columns=[label], use_threads=False).column(label).to_pylist()
    if None in labels:
        raise DataError(f"{printable(path)} row {labels.index(None)} has no label")
    return labels


def _sizes(path: Path, file: pq.ParquetFile, image: str) -> list[int]:
    """Bytes of the images in each row group, unpacked."""
    metadata, found = file.metadata, []
    for group in range(metadata.num_row_groups):
        columns = (metadata.row_group(group).column(n) for n in range(metadata.num_columns))
        found.append(sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == image))
    if max(found, default=0) > LARGEST:
        raise DataError(
            f"{printable(path)} has a row group of {max(found)} bytes of images; expected {LARGEST} at most: "
            "write it again with a smaller row_group_size"
        )
    return found


def _class_names(file: pq.ParquetFile, label: str) -> list[str] | None:
    """The names that Hugging Face's datasets library keeps in the file's metadata, if they are there."""
    metadata = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(metadata)["info"]["features"][label]["names"] if metadata else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
