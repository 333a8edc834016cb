"""A directory of images for each class: ImageNet's layout."""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sasa.data.classification.source import Found, Source
from sasa.data.classification.split_lists import labelled_images, open_split_lists
from sasa.data.directories import (
    NoImagesError,
    find_layout,
    is_clutter,
    is_of_images,
    is_of_masks,
    look_through,
    sub_directories,
)
from sasa.data.images import SUFFIXES, is_image
from sasa.data.source import FileSource
from sasa.data.text import NameTable, class_name, listed, printable
from sasa.errors import DataError

# Masks and outlines of the image with the rest of the name: "1.png" and "1_mask.png".
_MASK = re.compile(r"(.+)_(?:mask|segmentation)[_-]?\d*\.\w+", re.IGNORECASE)


class ClassFolders(FileSource, Source):
    """A directory with one directory of images for each class, which may have directories of its own.

    Class directories may be symbolic links. Hidden files, files left by the operating system, and masks beside the
    images that they belong to are ignored. Images are ordered by class, then by name.

    Args:
        root: the directory.
        classes: in the order of their labels; by default the sorted names of the directories, none of them empty.

    Raises:
        DataError: no images, a class without any, one that is not in `classes`, two directories for one class, a
            symbolic link that leads nowhere or to another class, directories of images and of masks.
    """

    def __init__(self, root: Path, classes: list[str] | None = None) -> None:
        directories, self.description = _class_directories(root)
        names = [directory.name for directory in directories]
        self._directory = str(root)
        found = {name: _Images.below(f"{root}/{name}", name) for name in names}
        images = {name: sorted(found[name].names) for name in names}
        others = sum((found[name].others for name in names), Counter())
        if not any(images.values()):
            raise NoImagesError(
                f"{printable(root)} holds no images in directories: expected a directory for each class with images"
            )
        if classes is None and (empty := [name for name in names if not images[name]]):
            held = _files(found[empty[0]].others)
            raise DataError(
                f"{printable(root / empty[0])} holds no images{f' but {held}' if held else ''} "
                f"({len(empty)} of {len(names)} classes empty)"
            )
        title = {name: class_name(name) for name in names}
        self.classes = classes or list(title.values())
        numbers = {name: number for number, name in enumerate(self.classes)}
        if unknown := [title[name] for name in names if images[name] and title[name] not in numbers]:
            raise DataError(
                f"{printable(root)} has a class {unknown[0]!r} that the training images lack (those have "
                f"{listed(self.classes, 5)})"
            )
        self._names = NameTable(path for name in names for path in images[name])
        self.labels = [number for name in names for number in [numbers.get(title[name], -1)] * len(images[name])]
        self.description += _passed_over(root, images)
        if masks := [name for name in names if found[name].masks]:
            count = sum(found[name].masks for name in masks)
            self.description.append(
                f"not used: {count} masks beside their images in {_listed(masks)} of {printable(root)}"
            )
        if others:
            self.description.append(f"not used in the classes of {printable(root)}: {_files(others)}")


def open_class_folders(root: Path) -> Found:
    """Open directories of classes: in splits, or with lists or tables of the held-out images, or without either.

    Raises:
        DataError: as `find_layout`, `ClassFolders` and `open_split_lists`.
    """
    layout = find_layout(root)
    train = ClassFolders(layout.train)
    place = printable(layout.train)
    if layout.held_out is None:
        if labelled := labelled_images(layout, train.classes):
            directory, held_out = labelled
            del layout.unused[directory]
            notes = [*layout.sentences(), *train.description, *held_out.description]
            return Found(train, held_out, notes, (place, printable(directory)))
        notes = [*layout.sentences(), *train.description]
        paths = [train.path_below(index) for index in range(len(train))]
        by_lists = open_split_lists(
            train, paths, [p for p in (layout.train, *layout.train.parents) if root in (p, *p.parents)]
        )
        return by_lists._replace(notes=notes + by_lists.notes) if by_lists else Found(train, None, notes, (place, ""))
    directory, notes = layout.held_out, [*layout.sentences(), *train.description]
    if not {class_name(d.name) for d in sub_directories(directory)} & set(train.classes):
        directory, more = look_through(directory)
        notes += more
    held_out = ClassFolders(directory, train.classes)
    return Found(train, held_out, [*notes, *held_out.description], (place, printable(directory)))


def _class_directories(root: Path) -> tuple[list[Path], list[str]]:
    """Return (directories of classes, sentences about links that are not).

    Raises:
        DataError: two directories for one class, a link that leads nowhere or to another class, images and masks.
    """
    with os.scandir(root) as entries:
        links = [root / entry.name for entry in entries if entry.is_symlink() and not is_clutter(entry.name)]
    if broken := [link for link in links if not link.exists()]:
        raise DataError(f"{printable(broken[0])} is a link that leads nowhere")
    loops = [link for link in links if root.resolve().is_relative_to(link.resolve())]
    directories = [directory for directory in sub_directories(root) if directory not in loops]
    by_class: dict[str | Path, Path] = {}
    for directory in directories:
        same = class_name(directory.name), directory.resolve()
        if other := next((by_class[key] for key in same if key in by_class), None):
            raise DataError(
                f"{printable(root)} has two directories of one class, {printable(other.name)!r} and "
                f"{printable(directory.name)!r}"
            )
        by_class |= dict.fromkeys(same, directory)
    masks = [directory.name for directory in directories if is_of_masks(directory.name)]
    if masks and (images := [directory.name for directory in directories if is_of_images(directory.name)]):
        raise DataError(
            f"{printable(root)} holds {_listed(images)} and {_listed(masks)}: masks of images, not classes; expected a "
            "directory of images for each class"
        )
    return directories, [f"not used: {printable(link)}/ (a link to a directory that holds it)" for link in loops]


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


def _files(others: Counter[str]) -> str:
    return listed(
        f"{count} files {f'ending in {suffix}' if suffix else 'without a suffix'}"
        for suffix, count in others.most_common()
    )


@dataclass
class _Images:
    """The images of a class.

    Paths are strings: a million pathlib objects take a minute to make.

    Args:
        names: their paths, which begin with the name of the class.
        masks: number of masks of these images.
        others: number of other files by their suffix.
    """

    names: list[str] = field(default_factory=list)
    masks: int = 0
    others: Counter[str] = field(default_factory=Counter)

    @classmethod
    def below(cls, directory: str, relative: str) -> "_Images":
        """Find the images in a directory and below."""
        found = cls()
        found._add(directory, relative)
        return found

    def _add(self, directory: str, relative: str) -> None:
        first = len(self.names)
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if is_clutter(name):
                    continue
                # Links to directories are followed for classes only: further down they may form a cycle.
                if entry.is_dir(follow_symlinks=False):
                    if is_of_masks(name):
                        self.masks += len(self.below(entry.path, name).names)
                    else:
                        self._add(entry.path, f"{relative}/{name}")
                elif entry.is_symlink() and not entry.is_file():
                    # A broken link is a missing image and must not be ignored silently.
                    if name.lower().endswith(SUFFIXES) and not entry.is_dir():
                        raise DataError(f"{printable(entry.path)} is a link that leads to no file")
                elif name.lower().endswith(SUFFIXES):
                    self.names.append(f"{relative}/{name}")
                else:
                    self.others[Path(name).suffix.lower()] += 1
        self._leave_out_masks(first)

    def _leave_out_masks(self, first: int) -> None:
        """Leave out `1_mask.png` beside `1.png`, among the names from `first` on."""
        new = self.names[first:]
        masks = [name for name in new if "_mask" in name or "_segmentation" in name]
        if masks:
            stems = {name.rpartition(".")[0] for name in new}
            own = {name for name in masks if (match := _MASK.fullmatch(name)) and match[1] in stems}
            self.names[first:] = [name for name in new if name not in own]
            self.masks += len(own)
