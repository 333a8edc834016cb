"""A directory of images for each class: ImageNet's layout."""

import os
from pathlib import Path

from sasa.data.classification.source import Found, Source
from sasa.data.directories import find_layout, is_clutter, look_through, sub_directories
from sasa.data.images import SUFFIXES, is_image
from sasa.data.source import FileSource
from sasa.data.text import NameTable, listed, printable
from sasa.errors import DataError


class NoImagesError(DataError):
    """There are no class directories with images."""


class ClassFolders(FileSource, Source):
    """A directory with one directory of images for each class, which may have directories of its own.

    Class directories may be symbolic links. Hidden files and files left by the operating system are ignored. Images are
    ordered by class, then by name.

    Args:
        root: the directory.
        classes: in the order of their labels; by default the sorted names of the directories, none of them empty.

    Raises:
        DataError: no images, a class without any, one that is not in `classes`, a broken symbolic link.
    """

    def __init__(self, root: Path, classes: list[str] | None = None) -> None:
        names = [directory.name for directory in sub_directories(root)]
        self._directory = str(root)
        images = {name: sorted(_images_below(f"{root}/{name}", name)) for name in names}
        if not any(images.values()):
            raise NoImagesError(
                f"{root} holds no images in directories: expected a directory for each class with files ending in "
                f"{', '.join(SUFFIXES)}"
            )
        if classes is None and (empty := [name for name in names if not images[name]]):
            where = printable(root / empty[0])
            raise DataError(f"{where} holds no images ({len(empty)} of {len(names)} classes empty)")
        self.classes = classes or [printable(name) for name in names]
        numbers = {name: number for number, name in enumerate(self.classes)}
        if unknown := [printable(name) for name in names if images[name] and printable(name) not in numbers]:
            raise DataError(
                f"{root} has a class {unknown[0]!r} that the training images lack (those have "
                f"{listed(self.classes, 5)})"
            )
        self._names = NameTable(path for name in names for path in images[name])
        self.labels = [numbers[printable(name)] for name in names for _ in images[name]]
        self.description = _passed_over(root, images)


def open_class_folders(root: Path) -> Found:
    """Open directories of classes, in splits or not.

    Raises:
        DataError: as `find_layout` and `ClassFolders`.
    """
    layout = find_layout(root)
    train = ClassFolders(layout.train)
    notes = [*layout.notes, *train.description]
    if layout.held_out is None:
        return Found(train, None, notes, (printable(layout.train), ""))
    directory = layout.held_out
    if not {printable(d.name) for d in sub_directories(directory)} & set(train.classes):
        directory, more = look_through(directory)
        notes += more
    held_out = ClassFolders(directory, train.classes)
    places = printable(layout.train), printable(directory)
    return Found(train, held_out, [*notes, *held_out.description], places)


def _passed_over(root: Path, images: dict[str, list[str]]) -> list[str]:
    """Return sentences about images outside of classes, empty classes and nested directories."""
    sentences = []
    if loose := sum(is_image(path) and path.is_file() for path in root.iterdir()):
        sentences.append(f"not used: {loose} images directly in {printable(root)}, which are in no class")
    if empty := [name for name in images if not images[name]]:
        sentences.append(f"no images in {_listed(empty)} of {printable(root)}")
    if deep := [name for name in images if any(path.count("/") > 1 for path in images[name])]:
        sentences.append(
            f"directories inside of {_listed(deep)} of {printable(root)} are taken as parts of these classes"
        )
    return sentences


def _listed(names: list[str]) -> str:
    return listed((f"{printable(name)}/" for name in names), 5)


def _images_below(directory: str, relative: str) -> list[str]:
    """Paths of the images in a directory and below, each beginning with `relative`.

    Paths are strings: a million pathlib objects take a minute to make.
    """
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_clutter(entry.name):
                continue
            name = f"{relative}/{entry.name}"
            if entry.name.lower().endswith(SUFFIXES):
                # A broken link is a missing image and must not be ignored silently.
                if entry.is_file():
                    found.append(name)
                elif entry.is_symlink() and not entry.is_dir():
                    raise DataError(f"{printable(entry.path)} is a link that leads to no file")
            # Links to directories are followed for classes only: further down they may form a cycle.
            if entry.is_dir(follow_symlinks=False):
                found += _images_below(entry.path, name)
    return found
