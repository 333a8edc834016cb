"""Words of the command line that name images and pixels."""

from collections.abc import Iterable
from pathlib import Path

from sasa.data.images import SUFFIXES, is_image
from sasa.errors import ArgumentError, DataError


def find_images(arguments: list[str]) -> list[Path]:
    """Image files named by paths, folders (searched through) and shell patterns, ** among them; each file once.

    Raises:
        DataError: an argument that names nothing, or a folder or pattern without images.
    """
    return list(dict.fromkeys(path for argument in arguments for path in _named_by(argument)))


def _named_by(argument: str) -> list[Path]:
    path = Path(argument).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = _images(path.rglob("*"))
        if not inside:
            raise DataError(f"{argument} holds no images")
        return inside
    matches = _matches(path)
    if not matches:
        raise DataError(f"{argument} is no file, no folder and matches nothing")
    found = _images(matches)
    if not found:
        raise DataError(f"{argument} matches no image: no name ends in {', '.join(SUFFIXES)}")
    return found


def _matches(pattern: Path) -> list[Path]:
    """What a pattern with wildcards in any of its parts matches, in the folder where its plain parts end."""
    plain = next((n for n, part in enumerate(pattern.parts) if any(sign in part for sign in "*?[")), None)
    if plain is None:
        return []
    try:
        return list(Path(*pattern.parts[:plain]).glob(str(Path(*pattern.parts[plain:]))))
    except ValueError as error:
        raise DataError(f"{pattern} is no pattern: {error}") from error


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if is_image(path) and path.is_file())


def parse_pixel(text: str) -> tuple[int, int]:
    """(12, 30) of "12,30": row and column.

    Raises:
        ArgumentError: not two whole numbers.
    """
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"--pixel takes ROW,COLUMN in pixels of the image, got {text!r}") from None
    return row, column
