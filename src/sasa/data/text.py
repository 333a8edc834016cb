"""Text of foreign files: names that may not be valid UTF-8, and lists with a byte order mark."""

import codecs
import math
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from sasa.errors import DataError

MOST_ALIKE = 5  # sentences about classes that look alike
Item = TypeVar("Item", bound=Hashable)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class NameTable:
    """Strings in one block of bytes: about a tenth of the memory of a list, and shared by forked workers.

    (Reading a string from a list writes its reference count, so every worker ends with its own copy of the list.)
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]  # faster than os.fsencode
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        first = int(self._ends[index - 1]) if index else 0
        return self._block[first : int(self._ends[index])].decode("utf-8", "surrogateescape")


def printable(name: object) -> str:
    """Return a path or name as a line of valid UTF-8; other bytes are written as \\xNN, lone surrogates as \\uNNNN.

    Control characters are escaped as well: a line break would end the sentence, others can change a terminal's state.
    """
    try:
        text = os.fsencode(str(name)).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # JSON can hold them, and names of files cannot
        text = str(name).encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def class_name(name: object) -> str:
    """Return the name of a class as it is compared: valid UTF-8, composed (NFC), without spaces around it.

    macOS writes accents as characters of their own (NFD), so that equal names differ.
    """
    return unicodedata.normalize("NFC", printable(str(name).strip()))


def look_alike(names: Iterable[str]) -> list[str]:
    """Return sentences about names of classes that differ only in case, spaces or invisible characters."""
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = "".join(letter for letter in name.casefold() if unicodedata.category(letter) != "Cf")
        groups.setdefault(" ".join(visible.split()), []).append(name)
    sentences = []
    for same in (group for group in groups.values() if len(group) > 1):
        cases = len({name.casefold() for name in same}) == 1
        what = "upper and lower case" if cases else "case, spaces or invisible characters"
        sentences.append(f"classes that differ in {what} only: {listed(same if cases else map(repr, same))}")
    return sentences[:MOST_ALIKE]


def class_names(where: str, names: Iterable[str]) -> list[str]:
    """Return the names of classes as they are compared; raises `DataError` if two are equal."""
    names = [class_name(name) for name in names]
    if twice := repeated(names):
        raise DataError(f"{where} names the class {twice[0]!r} twice")
    return names


def check_known(where: str, names: Iterable[str], classes: Sequence[str]) -> None:
    """Raise a `DataError` if a class of a held-out split is not one of the training images."""
    known = set(classes)
    if unknown := next((name for name in names if name not in known), None):
        raise DataError(
            f"{where} has a class {unknown!r} that the training images lack (those have {listed(classes, 5)})"
        )


def repeated(items: Iterable[Item]) -> list[Item]:
    """Return the items that occur more than once."""
    return [item for item, count in Counter(items).items() if count > 1]


def is_number(text: str) -> bool:
    """Return whether a text is a number, also NaN or infinite."""
    return finite(text) is not None or text.lower().strip("+-") in ("nan", "inf")


def finite(text: str | None) -> float | None:
    """Return the finite number that a text states, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check_fetched(where: str, content: bytes) -> None:
    """Raise a `DataError` if a file is a pointer of Git LFS or a web page, which a failed download leaves."""
    start = content[:100].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{where} is a pointer of Git LFS, not the file itself: run git lfs pull, or download it again")
    if start.startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{where} is a web page (HTML), not the file itself: download it again")


@contextmanager
def system_errors(data: object) -> Iterator[None]:
    """Turn errors of the operating system in a `with` block, such as missing permissions, into `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{printable(error.filename or data)} cannot be read: {error.strerror or error}") from error


def is_special(path: Path | str) -> bool:
    """Return whether a path is a pipe, a socket or a device: to read one may take forever."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - also for the strings of a million paths
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for a `with` block; raises `DataError` if it, or a part, cannot be read, or is not a regular file."""
    if is_special(path):
        raise DataError(f"{printable(path)} is a pipe, a socket or a device, not a regular file")
    with system_errors(path), path.open("rb") as file:
        yield file


def read_bytes(path: Path) -> bytes:
    """Read a file; raises `DataError` as `opened` does."""
    with opened(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 after its byte order mark; raises `DataError` if that cannot be done."""
    content = read_bytes(path)
    check_fetched(printable(path), content)
    mark, encoding = next((known for known in _MARKS if content.startswith(known[0])), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)} cannot be read as UTF-8 text") from error
    if "\0" in text:  # UTF-16 without a byte order mark, or the end of a file that a crash left
        raise DataError(f"{printable(path)} cannot be read as UTF-8 text: it holds zero bytes")
    return text


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank, without the spaces around them; errors as `read_text`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def with_unique_keys(loader: Any) -> Any:
    """Return a YAML loader that raises a YAMLError for a key that occurs twice; PyYAML's take the last in silence."""
    from yaml.constructor import ConstructorError

    class Loader(loader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
            if twice := repeated(keys):
                raise ConstructorError(None, None, f"the key {twice[0]!r} occurs twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Loader


def not_used(paths: Iterable[object], why: str) -> list[str]:
    """Return a sentence about files or directories that are not used, and why; none without paths."""
    names = listed(map(printable, paths), 5)
    return [f"not used: {names} ({why})"] if names else []


def listed(words: Iterable[object], most: int = 10) -> str:
    """Join words by commas: the first `most`, and how many more there are."""
    words = [str(word) for word in words]
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
