"""A folder of images for each class: ImageNet's layout."""

import os
from pathlib import Path

from PIL import Image

from sasa.data.classification.names import NameTable, printable
from sasa.data.classification.source import Source
from sasa.data.images import SUFFIXES, read_image
from sasa.errors import DataError


class NoImagesError(DataError):
    """There are no class folders with images."""


class ClassFolders(Source):
    """A folder with one folder of images for each class, which may have folders of its own.

    Class folders may be symbolic links; names that begin with a dot are passed over. Images are ordered by class,
    then by name.

    Args:
        root: the folder.
        classes: the classes to number by; by default the names of the folders, sorted. Then none may be empty.

    Raises:
        DataError: no images, a class without any, one that is not in `classes`, a link that leads nowhere.
    """

    def __init__(self, root: Path, classes: list[str] | None = None) -> None:
        folders = sorted(e.name for e in os.scandir(root) if e.name[0] != "." and e.is_dir())
        self.classes = classes or [printable(name) for name in folders]
        numbers = {name: number for number, name in enumerate(self.classes)}
        for name in folders:
            if printable(name) not in numbers:
                raise DataError(f"{root} has a class {printable(name)!r} that the training images lack")
        self._root = str(root)
        names, self.labels = _scan(self._root, folders, [numbers[printable(name)] for name in folders])
        if not self.labels:
            raise NoImagesError(
                f"{root} holds no images: expected a folder for each class with files ending in {', '.join(SUFFIXES)}"
            )
        empty = sorted(set(range(len(folders))) - set(self.labels)) if classes is None else []
        if empty:
            path = printable(root / folders[empty[0]])
            raise DataError(f"{path} holds no images ({len(empty)} of {len(folders)} classes empty)")
        self._names = NameTable(names)

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The image of file `index`."""
        return read_image(self.path(index), self.name(index), channels)

    def path(self, index: int) -> Path:
        """Where image `index` lies."""
        return Path(self._root, self._names[index])

    def name(self, index: int) -> str:
        """The file's path."""
        return printable(self.path(index))


def _scan(root: str, folders: list[str], numbers: list[int]) -> tuple[list[str], list[int]]:
    """(paths below `root`, labels) of the images in the class folders."""
    names, labels = [], []
    for folder, number in zip(folders, numbers, strict=True):
        found = sorted(_images_below(f"{root}/{folder}", folder))
        names += found
        labels += [number] * len(found)
    return names, labels


def _images_below(folder: str, relative: str) -> list[str]:
    """Paths of the images in a folder and its sub-folders, each beginning with `relative`.

    Written with strings: a million pathlib objects take a minute to make.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            name = f"{relative}/{entry.name}"
            if entry.name.lower().endswith(SUFFIXES):
                # A link to nothing is an image that got lost, not a file to pass over.
                if entry.is_file():
                    found.append(name)
                elif entry.is_symlink() and not entry.is_dir():
                    raise DataError(f"{printable(entry.path)} is a link that leads to no file")
            # Links to folders are followed for classes only: further down they may lead round in a circle.
            if entry.is_dir(follow_symlinks=False):
                found += _images_below(entry.path, name)
    return found
