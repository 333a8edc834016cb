"""Printing tables, and writing files, for the commands."""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import typer

from sasa.errors import SasaError
from sasa.files import atomic_write, write_errors


def print_table(values: dict[str, Any]) -> None:
    """Print a name and a value on each line.

    JSON's "pictures" are images here, None is a dash, and a network's options are wrapped.
    """
    shown = {name.replace("_", " ").replace("picture", "image"): value for name, value in values.items()}
    width = max(map(len, shown))
    for name, value in shown.items():
        if isinstance(value, dict):
            options = [f"{key}={option}" for key, option in value.items() if key != "name"]
            value = f"\n{' ' * (width + 2)}".join(
                textwrap.wrap(" ".join([value.get("name", ""), *options]), 78 - width)
            )
        typer.echo(f"{name:<{width}}  {'-' if value is None else value}")


def print_columns(heading: list[str], rows: list[list[str]]) -> None:
    """Print a heading and rows; the first column is aligned to the left, the others to the right."""
    widths = [max(len(row[place]) for row in [heading, *rows]) for place in range(len(heading))]
    for row in [heading, *rows]:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())


def as_share(value: float | None) -> str:
    """Return "12.5%" for 0.125, and a dash for None."""
    return "-" if value is None else f"{value:.1%}"


def shorten(text: str, length: int) -> str:
    """Return the text, shortened to `length` letters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def check_directory_of(*paths: Path | None) -> None:
    """Check, before the work, that files can be written: not where a directory is, and into one that is writable.

    Raises:
        SasaError: one cannot.
    """
    check_not_directories(*paths)
    for path in paths:
        if path and not path.parent.is_dir():
            raise SasaError(f"cannot write {path}: {path.parent} is not a directory")
        if path and not path.exists() and not os.access(path.parent, os.W_OK):  # what exists may be a device
            raise SasaError(f"cannot write {path}: {path.parent} is not writable")


def check_not_directories(*paths: Path | None) -> None:
    """Check, before the work, that none of the files to write is a directory.

    Raises:
        SasaError: one is.
    """
    for path in paths:
        if path and path.is_dir():
            raise SasaError(f"cannot write {path}: it is a directory")


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON to `path`, which may be a pipe or a device."""
    with write_errors(path):
        path.write_text(json.dumps(values, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Replace a file atomically."""
    with write_errors(path):
        atomic_write(path, text.encode())
