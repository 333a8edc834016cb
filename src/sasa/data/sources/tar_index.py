"""Where the members of a tar file lie: headers only, nothing unpacked, many times faster than `tarfile`.

Read are the POSIX and GNU layouts (POSIX.1-2001 section "pax", and the GNU tar manual "Basic Tar Format").
"""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sasa.data.sources.names import printable
from sasa.errors import DataError

BLOCK = 512
ADLER, SPACES = 65521, b" " * 8
WINDOW = 8192  # bytes read at once: small members and their headers come together, large ones are jumped over
LONGEST_NAME = 1 << 20  # bytes of a header that only carries a name
KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}


class Member(NamedTuple):
    """A file within a tar file: its name, and the bytes `offset` to `offset + size` of the tar file."""

    name: str
    offset: int
    size: int


Reader = Callable[[int, int], bytes]


def scan(path: Path) -> Iterator[tuple[Member, Reader]]:
    """The files in a tar file, in order, each with a function (offset, size) -> bytes of the tar file.

    Raises:
        DataError: it is no tar file, damaged or cut off, or holds what is neither a file nor a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    try:
        window = _Window(path, descriptor)
        for member in _members(window):
            yield member, window.read
    finally:
        os.close(descriptor)


class _Window:
    """A file read in windows, each kept until another part is asked for."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.size = os.fstat(descriptor).st_size
        self._first, self._content = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        start = offset - self._first
        if start < 0 or start + size > len(self._content):
            self._first, start = offset, 0
            self._content = os.pread(self._descriptor, max(size, WINDOW), offset)
        return self._content[start : start + size]


def _members(window: _Window) -> Iterator[Member]:
    offset, special = 0, {}
    while True:
        header = window.read(offset, BLOCK)
        if len(header) < BLOCK:
            raise DataError(f"{printable(window.path)} was cut off at byte {window.size}: it lacks the mark of its end")
        if not any(header):
            return
        kind, size = _checked(window.path, header, offset)
        size = int(special.get("size", size))
        start = offset + BLOCK
        offset = start + -(-size // BLOCK) * BLOCK
        if offset > window.size:
            raise DataError(
                f"{printable(window.path)} was cut off at byte {window.size}: {_name(header)!r} ends at byte {offset}"
            )
        if kind in b"LxgKX":
            _note(special, kind, window, start, size)
            continue
        name = special.get("path") or _name(header)
        if kind in KINDS:
            raise DataError(
                f"{printable(window.path)} has {KINDS[kind]} named {printable(name)!r}: only whole files are read"
            )
        if kind != b"5" and not name.endswith("/"):
            yield Member(name, start, size)
        special = {}


def _checked(path: Path, header: bytes, offset: int) -> tuple[bytes, int]:
    """The kind of a member and its size, from a header whose sum is right."""
    if header[:2] == b"\x1f\x8b":
        raise DataError(f"{printable(path)} is compressed: pictures are read by their place, from a plain tar file")
    try:
        # The sum is taken with the field that holds it full of spaces. Adler-32 has the sum plus 1, modulo 65521,
        # in its lower half, and is thirty times faster than adding in Python.
        total = zlib.adler32(header[:148] + SPACES + header[156:]) & 0xFFFF
        right = (int(header[148:156].strip(b" \0"), 8) + 1) % ADLER == total
        size = _number(header[124:136])
    except ValueError:
        right, size = False, 0
    if not right or size < 0:
        raise DataError(f"{printable(path)} is no tar file, or damaged at byte {offset}")
    return header[156:157], size


def _number(field: bytes) -> int:
    """Octal digits; or, for 8 GB and more, a number in base 256 with the highest bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    # GNU tar keeps times where POSIX keeps the folder.
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return os.fsdecode(prefix + b"/" + name if prefix else name)


def _note(special: dict[str, str], kind: bytes, window: _Window, start: int, size: int) -> None:
    """Keep what an extra header says about the next member: a long name, or a size."""
    if size > LONGEST_NAME:
        raise DataError(f"{printable(window.path)} has a header of {size} bytes at byte {start}: it is damaged")
    content = window.read(start, size)
    if kind == b"L":
        special["path"] = os.fsdecode(content.split(b"\0")[0])
    elif kind in b"xX":
        try:
            special.update(_pax(content))
        except ValueError as error:
            raise DataError(f"{printable(window.path)} is damaged at byte {start}: a header cannot be read") from error


def _pax(content: bytes) -> dict[str, str]:
    """Records of the form "length key=value\\n", where the length counts the whole record."""
    found = {}
    while content.strip(b"\0"):
        length = int(content[: content.index(b" ")])
        key, _, value = content[content.index(b" ") + 1 : length - 1].partition(b"=")
        if length < 5 or content[length - 1 : length] != b"\n":
            raise ValueError("a record of another length")
        if key == b"path":
            found["path"] = os.fsdecode(value)
        elif key == b"size":
            found["size"] = str(_natural(value))
        content = content[length:]
    return found


def _natural(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise ValueError("not a size")
    return int(digits)
