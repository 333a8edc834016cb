"""Base classes of the sources of both tasks: images that are read one at a time, in any order."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from sasa.data.images import read_image
from sasa.data.text import NameTable, opened, printable
from sasa.errors import DataError

# A larger label is treated as damage: a list of that many class names would fill the memory.
MOST_CLASSES = 1_000_000
WHOLE, PIECE = 1 << 16, 1 << 13  # bytes: files up to WHOLE are compared whole, larger ones in three pieces


def fingerprint(read: Callable[[int, int], bytes], size: int) -> bytes:
    """Hash an encoded image, which `read(offset, size)` reads; of a large one only its beginning, middle and end."""
    starts = [0] if size <= WHOLE else [0, size // 2, size - PIECE]
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    for start in starts:
        digest.update(read(start, size if size <= WHOLE else PIECE))
    return digest.digest()


class ImageSource(ABC):
    """Images with annotations of some kind; it can be pickled, and each process opens its own files."""

    classes: list[str]  # labels are indices into them
    # For each image the number of the file, or part of one, that holds it, if images of one are read fastest in a row.
    groups: Sequence[int] | None = None
    # Sentences about what was found: images and classes with counts, and ignored files, with the reason.
    description: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Read image `index`, upright, 8 bits, RGB (channels=3) or gray (1); raises `DataError` if it cannot be."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Name image `index` in messages: its path, or its file and its place there."""

    def fingerprint(self, index: int) -> bytes | None:
        """Hash image `index` as it is stored, to find equal images; None if that would take long."""
        return None

    def resolved_paths(self) -> Iterator[str]:
        """Yield the path of each image with all symbolic links resolved; nothing if images are not files."""
        return iter(())


class FileSource(ImageSource):
    """Images that are files below one directory; subclasses set `_directory` and the relative paths `_names`."""

    _directory: str
    _names: NameTable

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Read the image of file `index`."""
        return read_image(self.path(index), self.name(index), channels)

    def path(self, index: int) -> Path:
        """Path of image `index`."""
        return Path(self._directory, self._names[index])

    def names_by_directory(self) -> dict[Path, set[str]]:
        """The names of the files by the directory that holds them."""
        found: dict[str, set[str]] = {}
        for index in range(len(self._names)):
            parent, _, name = os.path.normpath(self._names[index]).rpartition("/")
            found.setdefault(parent, set()).add(name)
        return {Path(self._directory, parent): names for parent, names in found.items()}

    def resolved_paths(self) -> Iterator[str]:
        """Yield the path of each file, resolved: directories once, files only where their directory lists a link."""
        listed: dict[str, tuple[str, set[str]]] = {}  # by directory: its resolved path, the names of links in it
        for index in range(len(self._names)):
            parent, name = os.path.split(os.path.join(self._directory, self._names[index]))  # noqa: PTH118 - fast
            if parent not in listed:
                listed[parent] = os.path.realpath(parent), {e.name for e in os.scandir(parent) if e.is_symlink()}
            place, links = listed[parent]
            yield os.path.realpath(f"{place}/{name}") if name in links else f"{place}/{name}"

    def path_below(self, index: int) -> str:
        """Path of image `index` below the directory."""
        return self._names[index]

    def name(self, index: int) -> str:
        """The file's path."""
        return printable(self.path(index))

    def fingerprint(self, index: int) -> bytes | None:
        """Hash of the file; None if it cannot be read."""
        path = self.path(index)
        try:
            with opened(path) as file:
                return fingerprint(lambda start, size: (file.seek(start), file.read(size))[1], path.stat().st_size)
        except DataError:
            return None
