"""Parquet files by row groups, with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasa.data.sources.names import printable
from sasa.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Part = tuple[Path, int]  # a file, and the number of a row group in it


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file, for the time of a `with` block; what pyarrow raises within becomes a sentence.

    Raises:
        DataError: it is none, or was cut off or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{printable(path)} is not a whole parquet file: {said}") from error


class RowGroupReader:
    """Pictures from row groups read whole; the last `kept` of them stay in memory.

    Pickled, it leaves what it has read behind. A file is open only while a row group of it is read.
    """

    def __init__(self, parts: list[Part], column: str, kept: int) -> None:
        self._parts, self._column, self._kept = parts, column, kept
        self._group = lru_cache(kept)(self._load)

    def __reduce__(self):
        return RowGroupReader, (self._parts, self._column, self._kept)

    def read_all(self) -> None:
        """Read all row groups now: damage is found, and forked workers share the memory."""
        for group in range(len(self._parts)):
            self._group(group)

    def read(self, group: int, row: int) -> tuple[bytes | None, str | None]:
        """(bytes, path) of a row of row group `group`; None for what is not there."""
        value = self._group(group)[row].as_py()
        return (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)

    def _load(self, group: int) -> Any:
        path, number = self._parts[group]
        return read_column(path, number, self._column)


def read_column(path: Path, number: int, column: str) -> Any:
    """A column of row group `number`, as an arrow array.

    Raises:
        DataError: the file is damaged.
    """
    with opened(path) as file:
        # Without threads: a process that was forked has none of its parent's.
        return file.read_row_group(number, columns=[column], use_threads=False).column(0).combine_chunks()
