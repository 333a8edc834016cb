"""Reading parts of files, from any process and any thread, with few files open at a time."""

import os
from functools import lru_cache
from pathlib import Path

from sasa.data.classification.names import printable
from sasa.errors import DataError

OPEN_FILES = 64  # of a source, in a process: systems allow a process about 1,000


class Handles:
    """Parts of files by place, without a position that readers would share: a forked worker may use it as it is.

    Pickled, it leaves its open files behind and opens them again where it is used.
    """

    def __init__(self) -> None:
        # An evicted file is closed when the last thread that reads from it lets go of it, not before.
        self._open = lru_cache(OPEN_FILES)(_OpenFile)

    def __reduce__(self):
        return Handles, ()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """`size` bytes of the file from `offset`.

        Raises:
            DataError: the file cannot be read, or ends before.
        """
        try:
            content = self._open(path).read(offset, size)
        except OSError as error:
            raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
        if len(content) != size:
            lacking = f"{size - len(content)} of the {size} bytes at {offset} are missing"
            raise DataError(f"{printable(path)} was cut off: {lacking}")
        return content


class _OpenFile:
    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        content = os.pread(self._descriptor, size, offset)
        # One call reads at most 2 GB, and less where a signal came in between.
        while len(content) < size and (more := os.pread(self._descriptor, size - len(content), offset + len(content))):
            content += more
        return content

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
