"""Find the image files that command-line arguments name."""

from collections.abc import Iterable
from pathlib import Path

from sasa.data.directories import walk
from sasa.data.images import SUFFIXES, is_image
from sasa.data.text import system_errors
from sasa.errors import DataError, UsageError
from sasa.files import expand_user


def find_images(arguments: list[str]) -> list[Path]:
    """Return the image files named by paths, directories (searched recursively) and shell patterns; each file once.

    Raises:
        DataError: an argument that matches nothing, or a directory or pattern without images, or one that cannot be
            listed.
    """
    return list(dict.fromkeys(path for argument in arguments for path in _named_by(argument)))


def check_not_input(option: str, output: Path, images: Iterable[Path]) -> None:
    """Check that the file to write, the value of `option`, is not one of the images to read.

    Raises:
        UsageError: it is.
    """
    if output.resolve() in {path.resolve() for path in images}:
        raise UsageError(f"{option} {output} is one of the images to read: name another file")


def _named_by(argument: str) -> list[Path]:
    path = expand_user(argument)
    if path.is_file():
        return [path]
    if path.is_dir():
        with system_errors(path):
            inside = _images(Path(directory, file) for directory, _, files in walk(path) for file in files)
        if not inside:
            raise DataError(f"{argument} holds no images")
        return inside
    matches = _matches(path)
    if not matches:
        raise DataError(f"{argument} is neither a file nor a directory, and matches nothing")
    found = _images(matches)
    if not found:
        raise DataError(f"{argument} matches no image: no name ends in {', '.join(SUFFIXES)}")
    return found


def _matches(pattern: Path) -> list[Path]:
    """Return the paths that match a shell pattern; wildcards may be in any part, also in directories.

    Raises:
        DataError: an invalid pattern.
    """
    plain = next((n for n, part in enumerate(pattern.parts) if any(sign in part for sign in "*?[")), None)
    if plain is None:
        return []
    try:
        return list(Path(*pattern.parts[:plain]).glob(str(Path(*pattern.parts[plain:]))))
    except ValueError as error:
        raise DataError(f"{pattern} is not a valid pattern: {error}") from error


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if is_image(path) and path.is_file())
