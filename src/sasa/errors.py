"""Errors that a user can act on, each with a message of one sentence and an exit status for the command line."""

import contextlib
import tempfile
from collections.abc import Iterator

# Parts of torch's messages, which raises RuntimeError.
NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory")


class SasaError(Exception):
    """Base of all errors that sasa raises. The command line prints the message and exits with `exit_status`."""

    exit_status = 1


class ArgumentError(SasaError, ValueError):
    """An argument of a function or layer has an invalid value; the message quotes it."""


class UsageError(SasaError):
    """The arguments of the command line do not fit together."""

    exit_status = 2


class DataError(SasaError):
    """A data set, or one of its files, is invalid; the message names the path."""

    exit_status = 3


class DivergedError(SasaError):
    """The training loss is not a finite number."""

    exit_status = 4


def out_of_memory(error: Exception) -> bool:
    """Return whether an error of Python or torch means that there is not enough memory."""
    return isinstance(error, MemoryError) or any(part in str(error) for part in NO_MEMORY)


@contextlib.contextmanager
def compiler_errors(what: str) -> Iterator[None]:
    """Turn errors of torch's compiler about the C++ compiler into a `SasaError` with advice.

    torch does not quote the paths in its commands.

    Args:
        what: needs the compiler: "run.compile".
    """
    try:
        yield
    except RuntimeError as error:
        text = f"{type(error).__name__}: {error}"
        if "InvalidCxxCompiler" in text:
            sentence = f"needs a C++ compiler, and torch finds none: install g++ or set CXX, or leave {what} out"
        elif "CppCompileError" in text and " " in (place := tempfile.gettempdir()):
            sentence = f"cannot use {place} for temporary files, because of the space in it: set TMPDIR to another one"
        else:
            raise
        raise SasaError(f"{what} {sentence}") from error
