"""Images that annotations and tables name: found below a directory, though written on another system or machine."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from sasa.data.directories import files_below
from sasa.data.images import SUFFIXES
from sasa.data.text import listed, not_used, printable, repeated
from sasa.errors import DataError


def find_images(where: str, directories: Sequence[Path], names: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """Find the images that annotations name: (their directory, paths below it, sentences about changed names).

    A name that does not exist as written may be a Windows path (`images\\1.jpg`), relative to another directory, or an
    absolute path or an address of another machine. Then the longest tail of the path that exists in the directory is
    taken, or else the only image of that name anywhere below it, also without the suffix. Upper and lower case, and
    composed and decomposed accents, count as equal. Nothing outside the directory is read.

    Args:
        where: the annotation file, for errors.
        directories: possible directories of the images; the one that holds most of them is used, first those that
            hold the first image as it is written. A sentence names others that hold files of all the names.
        names: of the images.

    Raises:
        DataError: an image is missing, named twice, or two names would be the same file.
    """
    for name in names:
        if not _can_be_a_name(name):
            raise DataError(f"{where} names an image {name!a}, which is not a valid file name")
    if twice := repeated(names):
        raise DataError(f"{where} names the image {printable(twice[0])} twice")
    there = [directory for directory in directories if directory.is_dir()] or [directories[0]]
    likely = [place for place in there if _as_written(place, names[:1])]
    tried: list[tuple[Path, dict[str, str | None]]] = []
    for place in [*likely, *(place for place in there if place not in likely)]:
        tried.append((place, _locate(place, names)))
        if all(tried[-1][1].values()):
            break
    directory, found = min(tried, key=lambda each: sum(path is None for path in each[1].values()))
    check_found(where, directory, names, [name for name in names if not found[name]])
    _check_different(where, found)
    changed = [name for name in names if found[name] != name]
    others = [place for place in likely if place != directory and _holds_others(place, directory, names)]
    notes = not_used(others, f"the images that {where} names are those of {printable(directory)}")
    if changed:
        first = f"{printable(changed[0])!r} is {printable(found[changed[0]])!r}"
        notes.append(f"{len(changed)} names of images in {where} were found by their last parts: {first}")
    return directory, [found[name] or "" for name in names], notes


def _holds_others(place: Path, directory: Path, names: Sequence[str]) -> bool:
    """Return whether all names are files in a place as well, and the first is another file than in the directory."""
    return len(_as_written(place, names)) == len(names) and not (
        (directory / names[0]).exists() and (place / names[0]).samefile(directory / names[0])
    )


def _locate(directory: Path, names: Sequence[str]) -> dict[str, str | None]:
    """The path of each name below a directory, None for those that are not there."""
    found: dict[str, str | None] = dict(_as_written(directory, names))
    if missing := [name for name in names if name not in found]:
        index = PathIndex.below(directory)
        found |= {name: index.find(name) for name in missing}
    return found


def check_found(where: str, directory: Path, names: Sequence[str], missing: Sequence[str]) -> None:
    """Raise a `DataError` if images that a file names are missing, or it cannot be told which of several is meant."""
    if missing:
        name = _folded(missing[0]).replace("\\", "/").rpartition("/")[2]
        images = (path for path in files_below(directory) if path.lower().endswith(SUFFIXES))
        same = [p for p in images if name in ((last := _folded(p).rpartition("/")[2]), last.rpartition(".")[0])]
        several = f" (there are several: {listed(map(printable, same), 3)})" if len(same) > 1 else ""
        raise DataError(
            f"{where} names {len(names)} images, of which {len(missing)} are not in {printable(directory)}: "
            f"{printable(missing[0])}{several}{' and others' if len(missing) > 1 else ''}"
        )


def _can_be_a_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return bool(name.strip("./\\ ")) and "\0" not in name


def _as_written(directory: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the names that exist unchanged below the directory; each of its directories is listed once."""
    paths = {name: os.path.normpath(name) for name in names}
    paths = {name: path for name, path in paths.items() if not path.startswith(("/", ".."))}
    parents = {os.path.dirname(path) for path in paths.values()}  # noqa: PTH120 - a hundred thousand names
    inner = [parent for parent in parents if (directory / parent).is_dir()]
    there = {f"{parent}/{entry.name}".lstrip("/") for parent in inner for entry in os.scandir(directory / parent)}
    return {name: name for name, path in paths.items() if path in there}


class PathIndex:
    """Paths below a directory, with / between their parts, found by the tails of other paths to the same files."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths: dict[str, str] = {}  # folded -> path; "" for two files that differ by case only
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            key = _folded(path)
            keys = [key]
            if key.endswith(SUFFIXES):
                keys.append(key.rpartition(".")[0])
                for known in (each.rpartition("/")[2] for each in keys):
                    self._by_name.setdefault(known, []).append(path)
            for known in keys:
                self._paths[known] = "" if known in self._paths else path

    @classmethod
    def below(cls, root: Path) -> "PathIndex":
        """Index all files below a directory, except those in hidden directories."""
        return cls(files_below(root))

    def find(self, name: str) -> str | None:
        """Return the path below the root; None if nothing or more than one file matches."""
        # Label Studio's exports hold parts of addresses: /data/local-files/?d=images%2F1.jpg
        for text in dict.fromkeys((name, unquote(name.replace("?d=", "/")))):
            parts = [part for part in _folded(text).replace("\\", "/").split("/") if part not in ("", ".")]
            if ".." in parts:
                parts = parts[len(parts) - parts[::-1].index("..") :]
            for first in range(len(parts)):
                if path := self._paths.get("/".join(parts[first:])):
                    return path
            same = self._by_name.get(parts[-1], []) if parts else []
            if len(same) == 1:
                return same[0]
        return None


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).lower()


def _check_different(where: str, found: dict[str, str | None]) -> None:
    named: dict[str, str] = {}
    for name, path in found.items():
        place = os.path.normpath(path or "")
        if place in named:
            raise DataError(
                f"{where} names the images {printable(named[place])!r} and {printable(name)!r}, of which only "
                f"{printable(place)!r} is there"
            )
        named[place] = name
