"""What the commands print and write."""

import json
from pathlib import Path
from typing import Any

import typer

from sasa.errors import SasaError
from sasa.files import atomic_write


def print_table(values: dict[str, Any]) -> None:
    """Name and value, a line each."""
    width = max(len(name) for name in values)
    for name, value in values.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}  {value}")


def print_columns(heading: list[str], rows: list[list[str]]) -> None:
    """A heading and rows under it; the first column starts its lines, the others end where their headings end."""
    widths = [max(len(row[place]) for row in [heading, *rows]) for place in range(len(heading))]
    for row in [heading, *rows]:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())


def as_share(value: float | None) -> str:
    """0.125 as 12.5 %, and nothing known as a dash."""
    return "-" if value is None else f"{value:.1%}"


def shorten(text: str, length: int) -> str:
    """The text, with an ellipsis where it is longer than `length`."""
    return text if len(text) <= length else text[: length - 1] + "…"


def check_folder_of(*paths: Path | None) -> None:
    """Refuse files that cannot be written because their folder is missing: before the work, not after."""
    for path in paths:
        if path and not path.parent.is_dir():
            raise SasaError(f"cannot write {path}: there is no folder {path.parent}")


def write_json(path: Path, values: Any) -> None:
    """Write JSON, or say in a sentence why not."""
    try:
        path.write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise SasaError(f"cannot write {path}: {error.strerror or error}") from error


def replace_text(path: Path, text: str) -> None:
    """Write a file as one step, so that what reads it, or stops the command, never sees a part; or say why not."""
    try:
        atomic_write(path, text.encode())
    except OSError as error:
        raise SasaError(f"cannot write {path}: {error.strerror or error}") from error
