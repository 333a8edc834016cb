"""Recognising the format of a data set by its contents: the same for both tasks."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from sasa.data.text import listed, printable
from sasa.errors import DataError

Opener = TypeVar("Opener")


def recognise(path: Path, looks: Iterable[Callable[[Path], dict[str, Opener]]]) -> dict[str, Opener]:
    """Return openers, by the name of the format, of all formats whose `look` finds them in a path."""
    return {kind: opener for look in looks for kind, opener in look(path).items()}


def check_single(root: Path, kinds: Sequence[str]) -> None:
    """Raise a `DataError` if a directory holds several formats."""
    if len(kinds) > 1:
        raise DataError(
            f"{printable(root)} holds {' and '.join(kinds)}: give the path of the one that is meant, or move the "
            "others away"
        )


def single(root: Path, what: str, paths: Sequence[Path]) -> Path:
    """Return the only one of the paths below a directory; raises `DataError` if there are more."""
    if len(paths) > 1:
        names = listed((printable(path.relative_to(root)) for path in paths), 3)
        raise DataError(f"{printable(root)} holds {len(paths)} {what} ({names}): give the path of one")
    return paths[0]
