"""Parquet files by pages: one picture without the thousands that share its row group.

pyarrow reads row groups whole, and these may have hundreds of megabytes.
"""

from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

import numpy as np

from sasa.data.sources.handles import Handles
from sasa.data.sources.names import printable
from sasa.data.sources.parquet_headers import PLAIN, Chunk, Page, find_pages
from sasa.data.sources.parquet_rows import Part, opened, read_column
from sasa.data.sources.thrift import varint
from sasa.errors import DataError

KEPT_PAGES = 16
KEPT = 64 << 20  # bytes of pages, in each process; one page is kept in any case


class PageReader:
    """Pictures from single pages. Finding the pages reads their headers once, when the reader is made."""

    def __init__(self, parts: list[Part], column: str) -> None:
        self._column, self._handles, self._parts = column, Handles(), parts
        self._chunks: list[Chunk] = []
        numbers: dict[Path, list[int]] = {}
        for path, number in parts:
            numbers.setdefault(path, []).append(number)
        for path, groups in numbers.items():
            with opened(path) as file:
                self._chunks += [find_pages(path, file, group, column, self._handles) for group in groups]
        self._keep()

    def _keep(self) -> None:
        largest = max((page.size for chunk in self._chunks for page in chunk.pages), default=1)
        kept = max(1, min(KEPT_PAGES, KEPT // max(1, largest)))
        self._page = lru_cache(kept)(self._load)
        self._dictionary = lru_cache(kept)(self._load_dictionary)
        self._paths = lru_cache(KEPT_PAGES)(self._load_paths)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if not hasattr(value, "cache_clear")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._keep()

    def read_all(self) -> None:
        """Nothing is read before it is asked for."""

    def read(self, group: int, row: int) -> tuple[bytes | None, str | None]:
        """(bytes, path) of a row of row group `group`; the path only where there are no bytes."""
        pages = self._chunks[group].pages
        number = bisect_right(pages, row, key=lambda page: page.first_row) - 1
        content, places = self._page(group, number)
        first, end = places[row - pages[number].first_row].tolist()
        if end < 0:
            return None, self._paths(group)[row]
        if end > len(content):
            raise self._damaged(group, pages[number])
        return content[first:end], None

    def _damaged(self, group: int, page: Page) -> DataError:
        return DataError(f"{printable(self._chunks[group].path)} is damaged in the page at byte {page.offset}")

    def _load_paths(self, group: int) -> list[str | None]:
        values = read_column(*self._parts[group], self._column).to_pylist()
        return [value.get("path") if isinstance(value, dict) else None for value in values]

    def _load_dictionary(self, group: int) -> tuple[bytes, np.ndarray]:
        chunk = self._chunks[group]
        if chunk.dictionary is None:
            raise ValueError("no dictionary")
        content = self._unpacked(chunk.path, chunk.dictionary)
        return content, _plain_places(content, 0, chunk.dictionary.rows)

    def _load(self, group: int, number: int) -> tuple[bytes, np.ndarray]:
        """(bytes, places): each row's (first, end) in the bytes, or (-1, -1) where it has none."""
        chunk = self._chunks[group]
        page = chunk.pages[number]
        try:
            content = self._unpacked(chunk.path, page)
            present, at = _present(content, page, chunk.level)
            count = int(present.sum())
            if page.encoding == PLAIN:
                places = _plain_places(content, at, count)
            else:
                indices = _runs(content, at + 1, content[at], count)
                content, known = self._dictionary(group)
                places = known[indices]
        except (ValueError, IndexError, OSError, OverflowError) as error:
            raise self._damaged(group, page) from error
        rows = np.full((page.rows, 2), -1, dtype=np.int64)
        rows[present] = places
        return content, rows

    def _unpacked(self, path: Path, page: Page) -> bytes:
        import pyarrow as pa

        content = self._handles.read(path, page.offset, page.packed_size)
        if page.codec is None:
            return content
        plain = page.plain_bytes or 0
        unpacked = pa.decompress(content[plain:], page.size - plain, codec=page.codec, asbytes=True)
        return content[:plain] + unpacked


def _present(content: bytes, page: Page, level: int) -> tuple[np.ndarray, int]:
    """(for each row, whether it has bytes; the place where the values begin)."""
    if not level:
        return np.ones(page.rows, dtype=bool), page.plain_bytes or 0
    if page.plain_bytes is not None:
        first, at = 0, page.plain_bytes
    else:
        first, at = 4, 4 + int.from_bytes(content[:4], "little")
    return _runs(content[:at], first, level.bit_length(), page.rows) == level, at


def _plain_places(content: bytes, at: int, count: int) -> np.ndarray:
    """(first, end) of `count` values, each with four bytes before it that tell its size; count x 2."""
    places = []
    for _ in range(count):
        first = at + 4
        at = first + int.from_bytes(content[at:first], "little")
        if first > len(content):
            raise ValueError("fewer values than the page has rows")
        places.append((first, at))
    return np.array(places, dtype=np.int64).reshape(count, 2)


def _runs(content: bytes, at: int, width: int, count: int) -> np.ndarray:
    """`count` numbers of `width` bits each: runs of one number, or numbers packed by eights."""
    if width > 32:
        raise ValueError("numbers of more than 32 bits")
    found, missing = [np.zeros(0, dtype=np.int64)], count
    while missing > 0 and width:
        head, at = varint(content, at)
        if head & 1:
            packed = np.frombuffer(content, np.uint8, min((head >> 1) * width, len(content) - at), at)
            bits = np.unpackbits(packed, bitorder="little")
            bits = bits[: len(bits) // width * width].reshape(-1, width)
            run, at = bits @ (1 << np.arange(width, dtype=np.int64)), at + (head >> 1) * width
        else:
            size = -(-width // 8)
            run = np.full(min(head >> 1, missing), int.from_bytes(content[at : at + size], "little"), dtype=np.int64)
            at += size
        if not len(run):
            raise ValueError("a run of nothing")
        found.append(run[:missing])
        missing -= len(run)
    return np.concatenate(found) if width else np.zeros(count, dtype=np.int64)
