"""Errors that a user can do something about: one sentence each, and the exit status of the command line."""


class SasaError(Exception):
    """Base of all errors raised on purpose. The command line prints the sentence and exits with `exit_status`."""

    exit_status = 1


class ArgumentError(SasaError, ValueError):
    """An argument of a function or layer has a value that cannot work; the sentence quotes it."""


class UsageError(SasaError):
    """The command line was called with words that do not fit together."""

    exit_status = 2


class DataError(SasaError):
    """The data set, or one of its files, is not what it should be; the sentence names the path."""

    exit_status = 3


class DivergedError(SasaError):
    """Training reached a loss that is not a finite number."""

    exit_status = 4
