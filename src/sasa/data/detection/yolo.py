"""YOLO's format, as Ultralytics reads it: data.yaml, images/, and a text file of boxes for each image in labels/."""

import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sasa.data.detection.annotations import Annotated, Problem, clean
from sasa.data.detection.source import ImageFiles, Openers, upright_size
from sasa.data.directories import (
    OF_RUNS,
    child,
    files_below,
    files_in,
    has_images,
    has_images_below,
    runs_in,
    sub_directories,
)
from sasa.data.formats import single
from sasa.data.image_names import find_images
from sasa.data.images import is_image
from sasa.data.naming import SPLITS, by_split, exact_split
from sasa.data.source import MOST_CLASSES
from sasa.data.text import (
    check_known,
    class_names,
    finite,
    is_special,
    listed,
    not_used,
    printable,
    read_lines,
    read_text,
    repeated,
    with_unique_keys,
)
from sasa.errors import DataError

_NAMES = ("classes.txt", "obj.names", "labels.txt", "names.txt")  # files of class names, used without a data.yaml
FURTHEST = 1.5  # larger numbers cannot be fractions of the image
NEAR = 0.05  # key points may lie so far outside their box, in fractions of the image
FEWEST_LINES = 4  # fewer do not show whether they have key points

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Settings:
    """The contents of data.yaml, or of the files used in its place."""

    names: list[str] | None  # of the classes; None if only their numbers are known
    places: dict[str, list[Path]]  # directories of images, or text files that list images, by split
    root: Path  # directory that paths in lists are relative to
    keypoints: bool = False  # whether a box is followed by key points
    notes: tuple[str, ...] = ()  # about directories and lists that are not used


class YoloSource(ImageFiles):
    """Images with a text file each: a line for each object, of its class and its box or outline in fractions of 1.

    A box is centre x, centre y, width, height. An outline has three points or more, and becomes the box around it.
    An image without a file has no objects.

    Args:
        settings: of the data set.
        split: of `settings.places`.
        classes: class names in the order of their labels; by default those of the settings.

    Raises:
        DataError: an image is missing, a class is not in `classes`, or there is no box that can be used.
    """

    def __init__(self, settings: Settings, split: str, classes: list[str] | None = None) -> None:
        places = settings.places[split]
        title = listed((printable(place) for place in places), 3)
        paths, notes = _image_paths(settings, places)
        notes = [*settings.notes, *notes]
        if not paths:
            raise DataError(f"{title} holds no images")
        labels, orphans = label_files(paths)
        if not any(labels):
            example = printable(label_directory(paths[0].parent) / f"{paths[0].stem}.txt")
            raise DataError(f"{title}: none of {len(paths)} images has a file of boxes, such as {example}")
        directory = Path(os.path.commonpath([path.parent for path in paths]))
        images = [os.path.relpath(path, directory) for path in paths]
        sizes, unreadable = _sizes(paths, images)
        lines = [read_label_file(label, settings.keypoints) if label else [] for label in labels]
        if not settings.keypoints and _have_keypoints(lines):
            lines = [read_label_file(label, keypoints=True) if label else [] for label in labels]
            notes.append(f"not used: what follows the four numbers of each box in {title}, taken for key points")
        last = max((line.label for file in lines for line in file), default=0)
        if not settings.names and last >= MOST_CLASSES:
            raise DataError(f"{title} has boxes of the class {last}; expected numbers from 0 to {MOST_CLASSES - 1}")
        known = settings.names or [str(number) for number in range(1 + last)]
        _check_first_class(title, lines, len(known))
        check_known(title, known, classes or known)
        classes = classes or known
        numbers = {name: number for number, name in enumerate(classes)}
        objects, problems = _objects(images, labels, lines, sizes, [numbers[name] for name in known])
        table, problems = clean(
            objects, [*unreadable, *problems], sizes, images, title, "centre x, centre y, width, height"
        )
        if absent := labels.count(None):
            notes.append(f"no file of boxes for {absent} of {len(paths)} images in {title}: they have no objects")
        if orphans:
            notes.append(f"not used: {len(orphans)} files of boxes without an image, such as {printable(orphans[0])}")
        if shared := repeated(filter(None, labels)):
            same = listed((printable(path) for path, label in zip(paths, labels, strict=True) if label == shared[0]), 3)
            more = f" ({len(shared)} such files)" if len(shared) > 1 else ""
            notes.append(f"the same file of boxes for several images: {printable(shared[0])} for {same}{more}")
        self.description = notes
        categories: dict[str, int | str] = {name: number for number, name in enumerate(classes)}
        super().__init__(directory, images, range(1, len(paths) + 1), sizes, table, categories, problems)


class LabelLine(NamedTuple):
    """A line of a label file: an object."""

    number: int  # of the line
    label: int  # the class; -1 if it is none
    box: Box | str  # centre and size in fractions, or the problem with them
    values: int  # how many there are after the class
    around: bool  # whether there are more than a box, which lie in the box that the first four make: key points


def look(path: Path) -> dict[str, Openers]:
    """Return openers, by name, of the data in `path`: data.yaml, its directory, or images/ with labels/."""
    settings = None
    if path.is_file():
        settings = read_settings(path) if path.suffix.lower() in (".yaml", ".yml") else None
    elif files := [file for file in files_in(path, ".yaml", ".yml") if _is_settings(file)]:
        settings = read_settings(single(path, "files of settings", files))
    elif places := _places_of(path):
        settings = Settings(_read_names(path), places, path, notes=tuple(_unused(path, places)))
    if settings is None:
        return {}
    openers: Openers = {split: partial(YoloSource, settings, split) for split in SPLITS if split in settings.places}
    return {"YOLO's format": openers}


def _is_settings(path: Path) -> bool:
    return bool(re.search(r"^\s*(names|nc)\s*:", read_text(path), re.M)) and "train" in read_text(path)


def read_settings(path: Path) -> Settings:
    """Read data.yaml; raises `DataError` if it is damaged, or names directories that are not there."""
    import yaml

    where = printable(path)
    try:
        # All values are strings: a class may be called "no" or "01". No other objects are made.
        values = yaml.load(read_text(path), with_unique_keys(yaml.BaseLoader))  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{where} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict) or "train" not in values:
        raise DataError(f"{where} is not a data.yaml of YOLO: it has no entry 'train'")
    places: dict[str, list[Path]] = {}
    for key, given in values.items():
        split = exact_split(key) if isinstance(key, str) else None
        if split and given not in ("", "null", "~"):
            entries = given if isinstance(given, list) else [given]
            if not all(isinstance(entry, str) for entry in entries):
                raise DataError(f"{where} must name directories or lists as {key!r}; it has {reprlib.repr(given)}")
            found = [_place(path, values.get("path"), entry) for entry in entries]
            if None not in found:
                first = places.setdefault(split, [place for place in found if place])
                if first != found:
                    both = f"{printable(first[0])} and {printable(found[0])}"
                    raise DataError(f"{where} names two places for the {split} split, {both}: remove one")
            elif split not in places and split != "test":  # a test split is often named and not delivered
                raise DataError(f"{where} names {listed(entries, 3)!r}, which is not in {printable(path.parent)}")
    return Settings(_names(where, values), places, path.parent, "kpt_shape" in values)


def _names(where: str, values: dict[str, Any]) -> list[str] | None:
    names, count = values.get("names"), values.get("nc")
    count = int(count) if isinstance(count, str) and re.fullmatch(r"[0-9]{1,6}", count) else None
    if names is None:
        return [str(number) for number in range(count)] if count else None
    if isinstance(names, dict):
        if set(names) != {str(number) for number in range(len(names))}:
            raise DataError(f"{where} must name the classes 0 to {len(names) - 1}; it names {listed(names)}")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where} must have a list of classes as 'names'; it has {reprlib.repr(names)}")
    if count not in (None, len(names)):
        raise DataError(f"{where} names {len(names)} classes, and its nc is {count}")
    return class_names(where, names)


def _place(yaml_path: Path, base: Any, entry: str) -> Path | None:
    """Find the directory or list that an entry names: relative to `path` or to data.yaml, or by the tail of the entry.

    Tools write paths of the machine on which the set was made, or `../train/images` for a directory beside data.yaml.
    """
    home = yaml_path.parent
    bases = [home / base, home] if isinstance(base, str) and base else [home]
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    shorter = ["/".join(parts[first:]) for first in range(len(parts))]
    tries = [place / name for name in (entry, *shorter) for place in bases]
    return next((place for place in tries if place.exists() and place.resolve() != home.resolve()), None)


def _places_of(root: Path) -> dict[str, list[Path]]:
    """Find the images of each split without a data.yaml; if there are no splits, all images are for training.

    They are in images/ beside labels/, beside their text files, or in lists beside obj.names, as Darknet has them.
    """
    images, labels = child(root, "images"), child(root, "labels")
    if (root / "obj.names").is_file() and (lists := _lists(root)):
        return {split: [lists[split]] for split in SPLITS if split in lists}
    if images and labels:
        found = by_split(d for d in sub_directories(images) if exact_split(d.name)) or {"train": images}
        boxes = any(map(_has_boxes, (labels, *sub_directories(labels))))
        return {split: [directory] for split, directory in found.items()} if boxes else {}
    if has_images(root):
        return {"train": [root]} if _has_boxes(root) else {}
    inside: dict[Path, Path] = {}
    for directory in sub_directories(root):
        if exact_split(directory.name):
            images, labels = child(directory, "images"), child(directory, "labels")
            if _has_boxes(labels or directory):
                inside[directory] = images if images and labels else directory
    return {split: [inside[directory]] for split, directory in by_split(inside).items()}


def _lists(root: Path) -> dict[str, Path]:
    return by_split(files_in(root, ".txt"), lambda path: exact_split(path.stem), "lists")


def _unused(root: Path, places: dict[str, list[Path]]) -> list[str]:
    """Return sentences about directories and lists of splits beside those that are used."""
    used = [place for found in places.values() for place in found]
    lists = [path for path in files_in(root, ".txt") if exact_split(path.stem) and path not in used]
    inside = [d for d in sub_directories(root) if exact_split(d.name) and not any(d in (p, *p.parents) for p in used)]
    where = listed(map(printable, used), 3)
    return [
        *not_used([d for d in inside if has_images_below(d)], f"the images are those of {where}"),
        *not_used(lists, f"the images are those of {where}; a data.yaml can name lists"),
    ]


def _has_boxes(directory: Path) -> bool:
    """Return whether the first text files of a directory, other than lists of names, hold boxes."""
    files = [path for path in files_in(directory, ".txt") if path.name not in _NAMES and path.stat().st_size][:10]
    try:
        return any(line.values >= 4 and line.label >= 0 for path in files for line in read_label_file(path)[:1])
    except DataError:  # not a file of boxes
        return False


def _read_names(root: Path) -> list[str] | None:
    """Read the class names of a data set without a data.yaml; raises `DataError` if two files name other classes."""
    places = (root, *sub_directories(root))
    paths = [place / name for place in places for name in _NAMES if (place / name).is_file()]
    lines = [read_lines(path) for path in paths]
    if other := next((path for path, names in zip(paths, lines, strict=True) if names != lines[0]), None):
        raise DataError(f"{printable(paths[0])} and {printable(other)} name different classes: move one away")
    return class_names(printable(paths[0]), lines[0]) if paths else None


def _image_paths(settings: Settings, places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return (paths of the images, sentences about names in lists that were changed)."""
    paths, notes = [], []
    for place in places:
        if place.is_dir():
            runs = runs_in(place)
            notes += not_used(runs, OF_RUNS)
            images = sorted(p for p in map(place.joinpath, files_below(place, leave_out=runs)) if is_image(p))
            if special := set(filter(is_special, images)):
                notes.append(f"not used: {listed(map(printable, sorted(special)), 3)} (pipes, sockets or devices)")
            paths += [path for path in images if path not in special]
        elif names := read_lines(place):
            directory, found, more = find_images(printable(place), [settings.root, place.parent], names)
            paths += [directory / name for name in found]
            notes += more
    return list(dict.fromkeys(paths)), notes


def _sizes(paths: Sequence[Path], images: Sequence[str]) -> tuple[np.ndarray, list[Problem]]:
    """Return (heights and widths of images, problems of those that cannot be read, which have one pixel here)."""
    sizes, problems = [], []
    for path, image in zip(paths, images, strict=True):
        try:
            sizes.append(upright_size(path))
        except DataError:  # an error, or left out, when it is read
            sizes.append((1, 1))
            problems.append(Problem(printable(path.parent), image, None, "is not an image that can be read"))
    return np.array(sizes), problems


def label_directory(images: Path) -> Path:
    """Return the directory of the text files of images: labels/ in place of the last images/ of its path, or itself."""
    parts = images.parts
    places = [place for place, part in enumerate(parts) if part.lower() == "images"]
    labels = child(Path(*parts[: places[-1]]), "labels") if places else None
    return Path(labels, *parts[places[-1] + 1 :]) if labels else images


def label_files(paths: Sequence[Path]) -> tuple[list[Path | None], list[Path]]:
    """Return (the text file of each image, or None; text files in the same directories without an image).

    The file of 1.jpg is 1.txt or 1.jpg.txt, as it is written, or else in any case.
    """
    directories = {directory: label_directory(directory) for directory in {path.parent for path in paths}}
    known: dict[Path, dict[str, Path]] = {}
    for place in directories.values():
        files = files_in(place, ".txt") if place.is_dir() else []
        known[place] = {path.name.lower(): path for path in files} | {path.name: path for path in files}
    found: list[Path | None] = []
    for path in paths:
        here, names = known[directories[path.parent]], (f"{path.stem}.txt", f"{path.name}.txt")
        found.append(next((here[name] for name in (*names, *map(str.lower, names)) if name in here), None))
    others = {path for here in known.values() for path in here.values()} - set(found)
    return found, sorted(path for path in others if path.name not in _NAMES and exact_split(path.stem) is None)


def read_label_file(path: Path, keypoints: bool = False) -> list[LabelLine]:
    """Read a file of boxes; errors as `read_text`.

    With `keypoints`, numbers after the four of the box are key points, to be ignored, rather than an outline.
    """
    lines = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if words := line.split():
            values = [finite(word) for word in words]
            if values[0] is None or not values[0].is_integer() or values[0] < 0:
                what = f"has the class {words[0][:20]!r}, not a whole number, and is left out"
                lines.append(LabelLine(number, -1, what, 0, False))
            else:
                box = _box(values[1 : 5 if keypoints else None], line)
                lines.append(LabelLine(number, int(values[0]), box, len(values) - 1, _is_around(values[1:])))
    return lines


def _is_around(values: Sequence[float | None]) -> bool:
    """Return whether numbers are a box and points in it, of two or three numbers (x, y, visible), and no outline."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values) or len(numbers) < 7 or len(numbers) == 8:  # 8: the corners of a rectangle
        return False
    x, y, width, height = numbers[:4]
    for step in (2, 3):
        if (len(numbers) - 4) % step == 0:
            points = zip(numbers[4::step], numbers[5::step], strict=True)
            drawn = [(px, py) for px, py in points if px or py]  # others are hidden
            if all(abs(px - x) <= width / 2 + NEAR and abs(py - y) <= height / 2 + NEAR for px, py in drawn):
                return True
    return False


def _have_keypoints(lines: list[list[LabelLine]]) -> bool:
    """Return whether all lines are boxes with the same number of key points; outlines differ."""
    flat = [line for file in lines for line in file if line.label >= 0]
    return len(flat) >= FEWEST_LINES and all(line.around for line in flat) and len({line.values for line in flat}) == 1


def _box(values: list[float | None], line: str) -> Box | str:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values) or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
        return f"is not a class with a box of four numbers or an outline of points ({line[:40]!r}) and is left out"
    if max(map(abs, numbers)) > FURTHEST:
        return f"has numbers that are not fractions of the image ({line[:40]!r}) and is left out"
    if len(numbers) == 4:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    x1, x2, y1, y2 = min(numbers[::2]), max(numbers[::2]), min(numbers[1::2]), max(numbers[1::2])
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _check_first_class(title: str, lines: list[list[LabelLine]], count: int) -> None:
    numbers = {line.label for file in lines for line in file if line.label >= 0}
    if numbers and min(numbers) > 0 and max(numbers) == count:
        raise DataError(f"{title} has boxes of the classes 1 to {count}, and none of 0: expected numbers from 0")


def _objects(
    images: list[str], labels: list[Path | None], lines: list[list[LabelLine]], sizes: np.ndarray, numbers: list[int]
) -> tuple[list[Annotated], list[Problem]]:
    """Return (boxes in pixels, problems of the others); `numbers` maps the files' classes to labels."""
    objects: list[Annotated] = []
    problems: list[Problem] = []
    for place, (image, path, file) in enumerate(zip(images, labels, lines, strict=True)):
        where, (height, width) = printable(path), sizes[place].tolist()
        for line in file:
            box = line.box
            if not isinstance(box, str) and line.label >= len(numbers):
                box = f"has the class {line.label}, and there are {len(numbers)} classes, from 0; it is left out"
            if isinstance(box, str):
                problems.append(Problem(where, image, line.number, box))
                continue
            x, y, w, h = box
            corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
            objects.append(Annotated(place, numbers[line.label], corners, False, line.number, where))
    return objects, problems
