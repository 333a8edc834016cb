"""Recognising the format of a data set by its contents: the same for both tasks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sasa.data.text import listed, printable
from sasa.errors import DataError

Opener = TypeVar("Opener")


def recognise(path: Path, looks: Iterable[Callable[[Path], dict[str, Opener]]]) -> dict[str, Opener]:
    """Return openers, by the name of the format, of all formats that a path holds.

    Args:
        path: a directory or file.
        looks: a function of each format, which returns its opener by its name, or nothing.
    """
    return {kind: opener for look in looks for kind, opener in look(path).items()}


def check_single(root: Path, kinds: Sequence[str]) -> None:
    """Check that a directory holds one format.

    Raises:
        DataError: it holds several.
    """
    if len(kinds) > 1:
        raise DataError(
            f"{printable(root)} holds {' and '.join(kinds)}: give the path of the one that is meant, or move the "
            "others away"
        )


def single(root: Path, what: str, paths: Sequence[Path]) -> Path:
    """Return the only one of several paths below a directory.

    Raises:
        DataError: there are more.
    """
    if len(paths) > 1:
        names = listed((printable(path.relative_to(root)) for path in paths), 3)
        raise DataError(f"{printable(root)} holds {len(paths)} {what} ({names}): give the path of one")
    return paths[0]


@contextmanager
def system_errors(data: object) -> Iterator[None]:
    """Turn errors of the operating system in a `with` block, such as missing permissions, into `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{printable(error.filename or data)} cannot be read: {error.strerror}") from error
