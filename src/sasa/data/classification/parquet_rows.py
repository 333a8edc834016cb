"""Parquet files by row groups, with pyarrow."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from sasa.data.classification.names import printable
from sasa.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

KEPT = 512 << 20  # bytes of row groups in each process
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


class RowGroups:
    """A column of images, by row groups: all held in memory, or the last ones that were asked for.

    What is held is shared with forked processes. Else each process keeps its own: up to `kept` bytes and two row
    groups more, those in which a window of the sampler begins and ends. A file is open only while a row group of it
    is read. Pickled, the images are left behind.
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
        """Row group `group`, counted over all files, as an arrow array.

        Raises:
            DataError: the file is damaged.
        """
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
        path, number = self._parts[group]
        with opened(path) as file:
            # Without threads: a process that was forked has none of its parent's.
            return file.read_row_group(number, columns=[self._column], use_threads=False).column(0).combine_chunks()
