"""Pascal VOC's format: an XML file of boxes for each image, and lists of the images of each split."""

import re

# Malicious entities need a DOCTYPE, which is refused; nothing is fetched from elsewhere.
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import NamedTuple, NoReturn

import numpy as np

from sasa.data.detection.annotations import Annotated, Problem, clean
from sasa.data.detection.source import ImageFiles, Openers, upright_size
from sasa.data.directories import child, children, files_in, has_images, has_images_below, sub_directories
from sasa.data.formats import single
from sasa.data.image_names import PathIndex, check_found
from sasa.data.naming import by_split, exact_split
from sasa.data.text import check_known, class_name, finite, not_used, printable, read_bytes, read_lines, repeated
from sasa.errors import DataError

# Names of the directories, in any case; VOC's own first.
_ANNOTATIONS = ("Annotations", "annotation", "xmls", "xml", "labels")
_IMAGES = ("JPEGImages", "images", "image", "imgs", "img", "data")

Box = tuple[float, float, float, float]


class Drawn(NamedTuple):
    """An annotated object: its class, its box (left, top, right, bottom in pixels from 0) or the problem with it."""

    name: str
    box: Box | str
    difficult: bool


class Record(NamedTuple):
    """An annotation file: (height, width), or None if missing, and the objects."""

    size: tuple[int, int] | None
    objects: list[Drawn]


@dataclass(frozen=True)
class Places:
    """The directories of a data set; XML files and images may be in the same one."""

    annotations: Path
    images: Path
    lists: dict[str, list[Path]]  # by the name of the split; several where there is one for each class
    notes: list[str] = field(default_factory=list)  # directories and lists that are not used

    @classmethod
    def find(cls, root: Path) -> "Places | None":
        """Find the directories below `root`; XML files may also be beside their images. None without XML files.

        Of several directories of images the first one of `_IMAGES` is used, of several directories of lists
        ImageSets/Main/, then ImageSets/; the notes name the others.

        Raises:
            DataError: there are two directories of XML files, or two lists for one split.
        """
        inner = [place for d in children(root, *_ANNOTATIONS) for place in (*children(d, "xmls"), d)]
        beside = [root] if files_in(root, ".xml") and has_images(root) else []
        with_xml = [place for place in inner if files_in(place, ".xml")] or beside
        if not with_xml:
            return None
        annotations = single(root, "directories of XML files", with_xml, "move the others away")
        images, *other_images = [root] if annotations == root else _image_directories(root)
        sets = child(root, "ImageSets")
        places = [place for place in (sets and child(sets, "Main"), sets) if place and _lists(place)]
        lists = [path for place in (*places[1:], root) for path in files_in(place, ".txt") if _list_name(path)]
        splits = [d for d in sub_directories(root) if exact_split(d.name) and files_in(d, ".xml")]
        notes = [
            *not_used(splits, f"the annotations are those of {printable(annotations)}"),
            *not_used(other_images, f"the images are those of {printable(images)}"),
            *not_used(lists, f"lists are read from {printable(places[0]) if places else 'ImageSets/Main/'}"),
        ]
        return cls(annotations, images, _lists(places[0]) if places else {}, notes)

    def xml(self, identity: str) -> Path:
        """The XML file of an image."""
        return self.annotations / f"{identity}.xml"

    def ids(self, split: str) -> list[str]:
        """Read the ids of the images of a split; raises `DataError` if a list cannot be read, or names an image twice.

        A line may have a file name instead of an id, and a second column, as the lists of a class have it.
        """
        found: list[str] = []
        for path in self.lists[split]:
            ids = [self._identity(line) for line in read_lines(path)]
            if twice := repeated(ids):
                raise DataError(f"{printable(path)} lists {twice[0]!r} twice")
            found += ids
        return list(dict.fromkeys(found))

    def _identity(self, line: str) -> str:
        """The id in a line of a list: the whole line, or without a second column, directories and the suffix."""
        first = re.sub(r"\s+-?[01]$", "", line)
        found = next(filter(None, (self.index.find(re.sub(r"\.xml$", "", text)) for text in (line, first))), None)
        return PurePath(found).stem if found else first

    @cached_property
    def index(self) -> PathIndex:
        """The images, by id: JPEG in VOC itself, any format in other data sets."""
        return PathIndex.below(self.images)

    def all_ids(self) -> list[str]:
        """The ids of the images that have an XML file, sorted."""
        return [path.stem for path in files_in(self.annotations, ".xml")]


class VocSource(ImageFiles):
    """Images in Pascal VOC's layout: Annotations/, JPEGImages/, ImageSets/Main/; see `Places` for its variants.

    VOC counts pixels from 1, and the last one is part of the box: its box 1, 1, 4, 3 is 0, 0, 4, 3 here, 4 pixels
    wide and 3 high. Objects marked as difficult are crowds here, neither trained on nor scored.

    Args:
        directory: that holds the three, or the `Places` of each.
        split: a list in ImageSets/Main ("train", "val", "trainval", "test"), or the ids of the images.
        classes: in the order of their labels; by default those of the training images if the split is "val" or
            "test", else its own; sorted.

    Raises:
        DataError: a list, an XML file or an image is missing or damaged, a class is not in `classes`, or there is no
            box that can be used.
    """

    def __init__(self, directory: Path | Places, split: str | Sequence[str], classes: list[str] | None = None) -> None:
        places = directory if isinstance(directory, Places) else Places.find(directory)
        directory = places.annotations if places and isinstance(directory, Places) else directory
        if places is None:
            raise DataError(f"{printable(directory)} holds no XML files in {_ANNOTATIONS[0]}/")
        ids, title = list(split), printable(directory)
        if isinstance(split, str):
            if split not in places.lists:
                raise DataError(f"{title} has no list {split}.txt of images in ImageSets/Main/")
            ids, title = places.ids(split), printable(places.lists[split][0])
        if not ids:
            raise DataError(f"{title} lists no images")
        found = [places.index.find(identity) for identity in ids]
        check_found(title, places.images, ids, [i for i, path in zip(ids, found, strict=True) if path is None])
        names = [path or "" for path in found]
        records = [read_record(places.xml(identity)) for identity in ids]
        if classes is None:
            train = training_list(places) if split in ("val", "test") else None
            training = map(read_record, map(places.xml, places.ids(train))) if train else records
            classes = sorted({drawn.name for record in training for drawn in record.objects if drawn.name})
        objects, problems = _objects(places, ids, names, records, classes)
        sizes = np.array([r.size or upright_size(places.images / n) for r, n in zip(records, names, strict=True)])
        table, problems = clean(objects, problems, sizes, names, title)
        categories: dict[str, int | str] = {name: number for number, name in enumerate(classes, 1)}
        self.description = places.notes
        super().__init__(places.images, names, range(1, len(ids) + 1), sizes, table, categories, problems)


def look(root: Path) -> dict[str, Openers]:
    """Return openers, by name, of the data in `root`.

    The layout is in the directory itself, in its only VOC2007/, VOC2012/ ... (below VOCdevkit/), or in train/,
    valid/ and test/, as Roboflow exports it.
    """
    if not root.is_dir():
        return {}
    openers = _openers(root) or _directories_by_split(root)
    if not openers:
        inside = [d for d in sub_directories(root) if d.name.lower() == "vocdevkit"]
        years = [
            d for place in (root, *inside) for d in sub_directories(place) if re.match("(?i)voc(?!devkit)", d.name)
        ]
        years = [year for year in years if Places.find(year)]
        openers = _openers(single(root, "years of Pascal VOC", years)) if years else {}
    return {"Pascal VOC": openers} if openers else {}


def _openers(root: Path) -> Openers:
    places = Places.find(root)
    if places is None:
        return {}
    lists: dict[str, str | list[str]] = {split: split for split in ("val", "test") if split in places.lists}
    if train := training_list(places):
        lists["train"] = train
    if train == "trainval" and "val" in lists:  # trainval holds them
        held_out = set(places.ids("val"))
        lists["train"] = [identity for identity in places.ids(train) if identity not in held_out]
    if not lists:
        lists["train"] = places.all_ids()
    return {split: partial(VocSource, root, lists[split]) for split in ("train", "val", "test") if split in lists}


def _directories_by_split(root: Path) -> Openers:
    """Return openers of the splits: train/ with XML files and images, or annotations/train/ with images/train/."""
    annotations, images = child(root, *_ANNOTATIONS), child(root, *_IMAGES)
    found: dict[Path, Places] = {}
    for directory in sub_directories(annotations or root):
        places = Places.find(directory) if exact_split(directory.name) else None
        if annotations and images and exact_split(directory.name) and files_in(directory, ".xml"):
            places = Places(directory, child(images, directory.name) or images, {})
        if places:
            found[directory] = places
    splits = {split: found[directory] for split, directory in by_split(found).items()}
    return {split: partial(VocSource, places, places.all_ids()) for split, places in splits.items()}


def training_list(places: Places) -> str | None:
    """Return the name of the list of the training images, or None."""
    return next((name for name in ("train", "trainval") if name in places.lists), None)


def _image_directories(root: Path) -> list[Path]:
    """The directories named for images that hold some; without any the first that is named so, or `root` itself."""
    named = children(root, *_IMAGES)
    return [directory for directory in named if has_images_below(directory)] or named[:1] or [root]


def _lists(directory: Path) -> dict[str, list[Path]]:
    files = files_in(directory, ".txt")
    of_classes: dict[str, list[Path]] = {}
    for path in files:
        if split := _split_named(path.stem.rpartition("_")[2]):
            of_classes.setdefault(split, []).append(path)
    return {**of_classes, **{split: [path] for split, path in by_split(files, _list_name, "lists").items()}}


def _list_name(path: Path) -> str | None:
    return _split_named(path.stem)


def _split_named(stem: str) -> str | None:
    """Return "trainval", also for train_val, or the split that the name of a list stands for."""
    stem = stem.lower()
    return "trainval" if re.fullmatch("train[-_ ]?val", stem) else exact_split(stem)


def _objects(
    places: Places, ids: list[str], names: list[str], records: list[Record], classes: list[str]
) -> tuple[list[Annotated], list[Problem]]:
    """Return (boxes of four numbers, problems of the others)."""
    objects: list[Annotated] = []
    problems: list[Problem] = []
    numbers = {name: number for number, name in enumerate(classes)}
    for place, (identity, name, record) in enumerate(zip(ids, names, records, strict=True)):
        where = printable(places.xml(identity))
        if record.size is None:
            problems.append(Problem(where, name, None, "has no size there: that of the image file is taken"))
        for count, drawn in enumerate(record.objects, 1):
            if isinstance(drawn.box, str):
                problems.append(Problem(where, name, count, drawn.box))
            else:
                check_known(where, [drawn.name], classes)
                objects.append(Annotated(place, numbers[drawn.name], drawn.box, drawn.difficult, count, where))
    return objects, problems


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise DataError("has a DOCTYPE, which annotations do not need")


def read_record(path: Path) -> Record:
    """Read an XML file; raises `DataError` if it is not an annotation, or has a DOCTYPE."""
    where, content = printable(path), read_bytes(path)
    try:
        root = ET.fromstring(content, ET.XMLParser(target=_NoDoctype()))  # noqa: S314 - see the import
    except ET.ParseError as error:
        raise DataError(f"{where} is damaged: not XML ({error})") from error
    except (ValueError, LookupError) as error:  # an unknown encoding, or not the one that the file states
        raise DataError(f"{where} is damaged: {error}") from error
    except DataError as error:
        raise DataError(f"{where} {error}") from None
    if root.tag != "annotation":
        raise DataError(f"{where} is not Pascal VOC's: it holds <{root.tag}> instead of <annotation>")
    return Record(_size(root), [_drawn(element) for element in root.findall("object")])


def _size(root: ET.Element) -> tuple[int, int] | None:
    """Return (height, width), or None if it is missing or 0, as some tools write it."""
    height, width = (finite(root.findtext(f"size/{side}")) for side in ("height", "width"))
    if height is None or width is None or not (1 <= height < 2**31 and 1 <= width < 2**31):
        return None
    return int(height), int(width)


def _drawn(element: ET.Element) -> Drawn:
    name = class_name(element.findtext("name") or "")
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return Drawn(name, _box(element) if name else "has no name and is left out", difficult)


def _box(element: ET.Element) -> Box | str:
    if element.find("bndbox") is None:
        return "has no bndbox and is left out"
    texts = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = map(finite, texts)
    if x1 is None or y1 is None or x2 is None or y2 is None:
        values = ", ".join(repr(text)[:20] for text in texts)
        return f"has a bndbox that is not four finite numbers ({values}) and is left out"
    return x1 - 1, y1 - 1, x2, y2
