"""Printing tables, and writing files, for the commands."""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import typer

from sasa.errors import SasaError
from sasa.files import write_errors, write_file

FIGURES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")  # PNG without an ending


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


def check_directory_of(path: Path | None) -> Path | None:
    """Check, before the work, that a file can be written: not where a directory is, and into one that is writable.

    Raises:
        SasaError: it cannot.
    """
    check_not_directory(path)
    if path and not path.parent.is_dir():
        raise SasaError(f"cannot write {path}: {path.parent} is not a directory")
    if path and not path.exists() and not os.access(path.parent, os.W_OK):  # what exists may be a device
        raise SasaError(f"cannot write {path}: {path.parent} is not writable")
    return path


def check_not_directory(path: Path | None) -> Path | None:
    """Check, before the work, that a file to write is not a directory.

    Raises:
        SasaError: it is.
    """
    if path and path.is_dir():
        raise SasaError(f"cannot write {path}: it is a directory")
    return path


def check_figure(path: Path | None) -> Path | None:
    """Check, before the work, that a figure can be written: not where a directory is, and in the format of its name.

    Raises:
        SasaError: it cannot.
    """
    check_not_directory(path)
    if path and path.suffix.lower() not in ("", *FIGURES):
        raise SasaError(f"cannot write {path}: the name of a figure must end in {', '.join(FIGURES)}")
    return path


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON to `path`; a file is replaced in one step, a pipe, a device or a link is written to."""
    text = json.dumps(values, indent=2) + "\n"
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with write_errors(path):
            path.write_text(text)
    else:
        write_file(path, text)
