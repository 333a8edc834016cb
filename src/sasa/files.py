"""Paths with ~, atomic file replacement, and write errors as sentences."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sasa.errors import DataError, SasaError


def expand_user(path: str) -> Path:
    """Return a path with ~ and ~USER expanded, or as it is where the system does not know that home directory."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises instead


def check_no_variables(path: str) -> None:
    """Raise a `DataError` for a path that does not exist and has the name of a variable, which only a shell expands."""
    if "$" in path and not expand_user(path).exists():
        raise DataError(
            f"{path!r} does not exist: variables such as $HOME are expanded by a shell, but not in a config or between "
            "single quotes; write the path itself, or begin it with ~"
        )


def write_file(path: Path, content: bytes | str) -> None:
    """Replace a file by `atomic_write`.

    Raises:
        SasaError: it cannot be written.
    """
    with write_errors(path):
        atomic_write(path, content.encode() if isinstance(content, str) else content)


def atomic_write(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader, or a power cut, sees the old content or the new, never a part."""
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` once all of it is on the disk. On an error `path` stays as it was."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = temporary.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of `atomic_file` that a process left in a directory when it was killed."""
    for path in directory.glob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{16}", path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error while `path` is written into a `SasaError` with the path and the reason.

    `torch.save` hides such an error (a full disk, say) behind a RuntimeError about positions in the file; the original
    error is its context.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise SasaError(f"cannot write {path}: {reason.strerror or reason}") from error
