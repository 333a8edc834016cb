"""A directory of images for each class: ImageNet's layout."""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from sasa.data.classification.source import Found, Source
from sasa.data.classification.split_lists import labelled_images, open_split_lists
from sasa.data.classification.tables import unused_tables
from sasa.data.directories import NoImagesError, entries, find_layout, image_names, look_through, sub_directories
from sasa.data.images import SUFFIXES
from sasa.data.naming import is_of_masks, says_nothing
from sasa.data.source import FileSource
from sasa.data.text import NameTable, check_known, class_name, listed, not_used, printable
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
        leave_out: directories that are no classes.

    Raises:
        DataError: no images, a class without any, one that is not in `classes`, two directories for one class, a
            symbolic link that leads nowhere or to another class, directories of images and of masks.
    """

    def __init__(self, root: Path, classes: list[str] | None = None, leave_out: Collection[Path] = frozenset()) -> None:
        directories, links = _class_directories(root, leave_out)
        found = {directory.name: _Images.below(f"{root}/{directory.name}", directory.name) for directory in directories}
        _check_filled(root, found, every=classes is None)
        self.classes = classes or [class_name(name) for name in found]
        numbers = {name: number for number, name in enumerate(self.classes)}
        filled = {name: class_name(name) for name in found if found[name].names}
        check_known(printable(root), filled.values(), self.classes)
        self._directory, self._names = str(root), NameTable(path for name in filled for path in found[name].names)
        self.labels = [label for name in filled for label in [numbers[filled[name]]] * len(found[name].names)]
        self.description = [*links, *_passed_over(root, found)]


def open_class_folders(root: Path) -> Found:
    """Open directories of classes: in splits, or with lists or tables of the held-out images, or without either."""
    layout = find_layout(root)
    train = ClassFolders(layout.train, leave_out=layout.unused)
    place = printable(layout.train)
    if layout.held_out:
        directory, notes = layout.held_out, []
        if not {class_name(d.name) for d in sub_directories(directory)} & set(train.classes):
            directory, notes = look_through(directory)
        held_out = ClassFolders(directory, train.classes)
        notes += _beside_classes(root, layout.train)
    elif labelled := labelled_images(layout, train.classes):
        directory, held_out = labelled
        notes = []
        del layout.unused[directory]
    else:
        above = [path for path in (layout.train, *layout.train.parents) if root in (path, *path.parents)]
        paths = [train.path_below(index) for index in range(len(train))]
        notes = _beside_classes(root, layout.train)
        found = open_split_lists(train, paths, above) or Found(train, None, notes, (place, ""))
        return found._replace(notes=[*layout.sentences(), *train.description, *found.notes])
    notes = [*layout.sentences(), *train.description, *notes, *held_out.description]
    return Found(train, held_out, notes, (place, printable(directory)))


def _beside_classes(root: Path, train: Path) -> list[str]:
    places = dict.fromkeys((root, train.parent, train))
    tables = dict.fromkeys(
        table for place in places if root in (place, *place.parents) for table in unused_tables(place)
    )
    return not_used(tables, "the directories are the classes")


def _check_filled(root: Path, found: dict[str, "_Images"], every: bool) -> None:
    """Check that one of the classes has images, or that every one has."""
    empty = [name for name in found if not found[name].names]
    if len(empty) == len(found):
        raise NoImagesError(
            f"{printable(root)} holds no images in directories: expected a directory for each class with images"
        )
    if every and empty:
        others = found[empty[0]].others
        raise DataError(
            f"{printable(root / empty[0])} holds no images{f' but {_files(others)}' if others else ''} "
            f"({len(empty)} of {len(found)} classes empty)"
        )


def _class_directories(root: Path, leave_out: Collection[Path]) -> tuple[list[Path], list[str]]:
    """Return (directories of classes, sentences about links that are not)."""
    links = [root / entry.name for entry in entries(root) if entry.is_symlink()]
    if broken := [link for link in links if not link.exists()]:
        raise DataError(f"{printable(broken[0])} is a link that leads nowhere")
    loops = [link for link in links if root.resolve().is_relative_to(link.resolve())]
    directories = [directory for directory in sub_directories(root) if directory not in (*loops, *leave_out)]
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
    if masks and (images := [directory.name for directory in directories if says_nothing(directory.name)]):
        raise NoImagesError(
            f"{printable(root)} holds {_listed(images)} and {_listed(masks)}: masks or annotations of images, not "
            "classes; expected a directory of images for each class"
        )
    return directories, [f"not used: {printable(link)}/ (a link to a directory that holds it)" for link in loops]


def _passed_over(root: Path, found: dict[str, "_Images"]) -> list[str]:
    """Return sentences about files that are not used, empty classes and nested directories."""
    sentences, where = [], printable(root)
    if loose := len(list(image_names(root))):
        sentences.append(f"not used: {loose} images directly in {where}, which are in no class")
    if empty := [name for name in found if not found[name].names]:
        sentences.append(f"no images in {_listed(empty)} of {where}")
    if deep := [name for name in found if any(path.count("/") > 1 for path in found[name].names)]:
        sentences.append(f"directories inside of {_listed(deep)} of {where} are taken as parts of these classes")
    if masks := [name for name in found if found[name].masks]:
        count = sum(found[name].masks for name in masks)
        sentences.append(f"not used: {count} masks beside their images in {_listed(masks)} of {where}")
    if others := sum((images.others for images in found.values()), Counter()):
        sentences.append(f"not used in the classes of {where}: {_files(others)}")
    return sentences


def _listed(names: list[str]) -> str:
    return listed((f"{printable(name)}/" for name in names), 5)


def _files(others: Counter[str]) -> str:
    return listed(f"{count} files {kind}" for kind, count in others.most_common())


@dataclass
class _Images:
    """The images of a class. Paths are strings: a million pathlib objects take a minute to make."""

    names: list[str] = field(default_factory=list)  # paths that begin with the name of the class
    masks: int = 0  # number of masks of these images
    others: Counter[str] = field(default_factory=Counter)  # numbers of other files by a description

    @classmethod
    def below(cls, directory: str, relative: str) -> "_Images":
        """Find the images in a directory and below, sorted."""
        found = cls()
        found._add(directory, relative)
        found.names.sort()
        return found

    def _add(self, directory: str, relative: str) -> None:
        first = len(self.names)
        for entry in entries(directory):
            name = entry.name
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
            elif not entry.is_file():
                self.others["that are pipes, sockets or devices"] += 1
            elif name.lower().endswith(SUFFIXES):
                self.names.append(f"{relative}/{name}")
            else:
                suffix = Path(name).suffix.lower()
                self.others[f"ending in {suffix}" if suffix else "without a suffix"] += 1
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
