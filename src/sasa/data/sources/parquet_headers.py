"""Where the pages of a parquet file lie: their headers, read once.

The format is that of github.com/apache/parquet-format: the pages of a column follow each other, each after a header
that tells its size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sasa.data.sources.handles import Handles
from sasa.data.sources.names import printable
from sasa.data.sources.thrift import Fields, read_fields
from sasa.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# Of the format: kinds of pages, and encodings.
DATA, DICTIONARY, DATA_2 = 0, 2, 3
PLAIN, BY_DICTIONARY = 0, (2, 8)
CODECS = {"UNCOMPRESSED": None, "SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli"}
ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}

FIRST_READ = 1 << 14  # bytes: a header may carry the smallest and largest value, a picture each


class Page(NamedTuple):
    """Where a page's contents lie, and how they are to be read."""

    offset: int
    packed_size: int
    size: int
    rows: int
    encoding: int
    codec: str | None
    plain_bytes: int | None  # of the levels before the packed part, in pages of the second kind
    first_row: int


class Chunk(NamedTuple):
    """The pages of one row group: file, highest definition level, dictionary, pages in order."""

    path: Path
    level: int
    dictionary: Page | None
    pages: list[Page]


def can_read_pages(file: pq.ParquetFile, image: str) -> bool:
    """Whether the column's bytes are encoded in one of the ways that writers of pictures use."""
    metadata = file.metadata
    leaf = _leaf(file, image)
    if leaf is None or file.schema.column(leaf).max_repetition_level:
        return False
    chunks = [metadata.row_group(n).column(leaf) for n in range(metadata.num_row_groups)]
    return all(chunk.compression in CODECS and set(chunk.encodings) <= ENCODINGS for chunk in chunks)


def _leaf(file: pq.ParquetFile, image: str) -> int | None:
    paths = [file.schema.column(n).path for n in range(len(file.schema.names))]
    return next((paths.index(path) for path in (f"{image}.bytes", image) if path in paths), None)


def find_pages(path: Path, file: pq.ParquetFile, group: int, image: str, handles: Handles) -> Chunk:
    """The pages of the pictures' bytes in row group `group`.

    Raises:
        DataError: the headers do not fit the file.
    """
    leaf = _leaf(file, image)
    assert leaf is not None
    column = file.metadata.row_group(group).column(leaf)
    at = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        at = min(at, column.dictionary_page_offset)
    end, rows = at + column.total_compressed_size, file.metadata.row_group(group).num_rows
    dictionary, pages, row = None, [], 0
    while row < rows:
        kind, page = _read_header(path, at, end, CODECS[column.compression], row, handles)
        if kind == DICTIONARY:
            dictionary = page
        elif kind in (DATA, DATA_2):
            if page.encoding not in (PLAIN, *BY_DICTIONARY):
                raise DataError(f"{printable(path)} has a page of encoding {page.encoding} at byte {at}")
            pages.append(page)
            row += page.rows
        at = page.offset + page.packed_size
    if row != rows:
        raise DataError(f"{printable(path)} is damaged: row group {group} has {rows} rows, its pages {row}")
    return Chunk(path, file.schema.column(leaf).max_definition_level, dictionary, pages)


def _read_header(path: Path, at: int, end: int, codec: str | None, row: int, handles: Handles) -> tuple[int, Page]:
    """(kind, page) from the header at byte `at`, of a column that reaches to byte `end`."""
    size = FIRST_READ
    while True:
        content = handles.read(path, at, max(0, min(size, end - at)))
        try:
            fields, length = read_fields(content, 0)
            if length > len(content):
                raise IndexError
            kind, page = _page(fields, at + length, codec, row)
            if page.packed_size < 0 or page.size < 0 or page.rows < 0 or page.offset + page.packed_size > end:
                raise ValueError("a size that cannot be")
            return kind, page
        except IndexError:
            if size < end - at:
                size *= 8
                continue
        except (KeyError, ValueError, TypeError):
            pass
        raise DataError(f"{printable(path)} is damaged: no page begins at byte {at}")


def _page(fields: Fields, offset: int, codec: str | None, row: int) -> tuple[int, Page]:
    kind, size, packed_size = fields[1], fields[2], fields[3]
    plain_bytes = None
    if kind == DATA_2:
        head = fields[8]
        count, encoding, plain_bytes = head[1], head[4], head[5] + head[6]
        codec = codec if head.get(7, True) else None
    elif kind in (DATA, DICTIONARY):
        head = fields[5 if kind == DATA else 7]
        count, encoding = head[1], head[2]
    else:
        count, encoding = 0, PLAIN
    return kind, Page(offset, packed_size, size, count, encoding, codec, plain_bytes, row)
