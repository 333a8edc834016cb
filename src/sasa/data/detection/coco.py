"""COCO's format: one JSON file of boxes for a directory of images."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sasa.data.detection.annotations import Annotated, Problem, clean
from sasa.data.detection.coco_json import Id, box_of, is_id, load
from sasa.data.detection.source import ImageFiles, Openers, upright_size
from sasa.data.directories import child, children, files_in, sub_directories
from sasa.data.formats import single
from sasa.data.image_names import find_images
from sasa.data.naming import by_split, exact_split, split_of
from sasa.data.text import check_known, class_name, not_used, printable, repeated
from sasa.errors import DataError

# Words in the names of COCO files that do not hold boxes.
_OTHER_KINDS = {"captions", "keypoints", "panoptic", "stuff", "info", "results", "predictions", "submission"}
_FILLERS = {"instances", "annotations", "annotation", "annot", "ann", "coco", "labels", "label", "default", "bbox"}
_IMAGES = ("images", "image", "data", "imgs", "img", "JPEGImages")
ONE_FILE = "a COCO file"  # whose split is unknown
MOST_JSON = 1 << 16  # bytes of a file that are read to recognise COCO's format


class CocoSource(ImageFiles):
    """The images that a COCO file lists, with its boxes; outlines are ignored, `iscrowd` boxes are kept as crowds.

    Args:
        json_path: the file.
        directories: the directory that the images' `file_name` are relative to; of several the one that holds the
            first image. See `find_images` for names that do not exist as written.
        classes: class names in the order of their labels, all of the file's and perhaps more. By default its own by id;
            then a class without boxes is a problem.
        unused: sentences about files beside this one.

    Raises:
        DataError: the file is damaged or not COCO's, contradicts itself, has a class that is not in `classes`, lists
            images that are missing, or has no box that can be used.
    """

    def __init__(
        self,
        json_path: Path,
        directories: Path | Sequence[Path],
        classes: list[str] | None = None,
        unused: Sequence[str] = (),
    ) -> None:
        self._json, where, document = str(json_path), printable(json_path), load(json_path)
        written, image_ids = _images(where, document["images"])
        directories = [directories] if isinstance(directories, Path) else directories
        directory, names, notes = find_images(where, directories, written)
        if joined := document["joined"]:
            notes.append(
                f"joined: the boxes of {len(joined)} images that {where} lists again with other ids ({joined[0]!r})"
            )
        self.description = [*unused, *notes]
        sizes = np.array([_size(i, directory / n) for i, n in zip(document["images"], names, strict=True)])
        by_id, problems = _categories(where, document)
        known, ids = _numbering(where, by_id, classes)
        places = {image_id: place for place, image_id in enumerate(image_ids)}
        labels = {name: number for number, name in enumerate(known)}
        numbers = {category: labels[name] for category, name in by_id.items()}
        objects, unusable = _objects(where, document["annotations"], places, numbers, names)
        table, cleaned = clean(objects, unusable, sizes, names, where, "left, top, width, height")
        problems += cleaned
        if classes is None:
            unseen = [name for name, count in zip(known, table.counts(len(known)), strict=True) if not count]
            problems += [Problem(where, "", None, f"class {name!r} has no boxes") for name in unseen]
        super().__init__(directory, names, image_ids, sizes, table, dict(zip(known, ids, strict=True)), problems)

    def coco(self) -> dict[str, Any]:
        """Read the file again, so that scores agree with those of other tools on this file.

        It includes boxes without area, repeated boxes and crowds, but no annotations that cannot be scored: without a
        valid box, or of an image or class that is not listed. `iscrowd` (0), `area` (of the box) and `id`
        are filled in if they are missing. Outlines are left out.
        """
        document = load(Path(self._json))
        listed = {image["id"] for image in document["images"]}
        categories = {category["id"] for category in document["categories"]}
        usable = [a for a in document["annotations"] if _scorable(a, listed, categories)]
        if any("id" not in annotation for annotation in usable):
            usable = [{**annotation, "id": number} for number, annotation in enumerate(usable, 1)]
        for annotation in usable:
            annotation.setdefault("iscrowd", 0)
            annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        parts = {part: document[part] for part in ("images", "categories")}
        return {"info": document.get("info", {}), **parts, "annotations": usable}


def _images(where: str, images: list[dict[str, Any]]) -> tuple[list[str], list[Id]]:
    """File names and ids."""
    for image in images:
        name = image.get("file_name")
        if not is_id(image.get("id")):
            raise DataError(
                f"{where} lists an image {str(name)!r} whose id is not an integer or a word: {image.get('id')!r}"
            )
        if not isinstance(name, str):
            raise DataError(f"{where} lists the image with the id {image['id']!r} without a file_name")
    _check_once(where, "images", [image["id"] for image in images])
    return [image["file_name"] for image in images], [image["id"] for image in images]


def _check_once(where: str, what: str, ids: list[Any]) -> None:
    identity, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise DataError(f"{where} lists {count} {what} with the id {identity!r}")


def _size(image: dict[str, Any], path: Path) -> tuple[int, int]:
    """Return (height, width), from the image's header if the file does not state it."""
    height, width = image.get("height"), image.get("width")
    if isinstance(height, int) and isinstance(width, int) and 0 < height < 2**31 and 0 < width < 2**31:
        return height, width
    return upright_size(path)


def _categories(where: str, document: dict[str, Any]) -> tuple[dict[Id, str], list[Problem]]:
    """Names by id, in the order of the ids.

    Some tools list the project's own name as a class that is never used; another class may have the same name.
    """
    for category in document["categories"]:
        if not is_id(category.get("id")) or not isinstance(category.get("name"), str):
            raise DataError(f"{where} has a category that lacks an id (an integer or a word) or a name: {category}")
    _check_once(where, "categories", [category["id"] for category in document["categories"]])
    by_id = {category["id"]: class_name(category["name"]) for category in document["categories"]}
    by_id = dict(sorted(by_id.items(), key=lambda item: _order(item[0])))
    used = {a["category_id"] for a in document["annotations"] if is_id(a.get("category_id"))}
    problems = []
    for name in repeated(by_id.values()):
        same = [category for category in by_id if by_id[category] == name]
        kept = [category for category in same if category in used] or same[:1]
        if len(kept) > 1:
            raise DataError(
                f"{where} has boxes of two classes of the same name {name!r}, with the ids {kept[0]} and {kept[1]}"
            )
        for category in set(same) - set(kept):
            del by_id[category]
            what = f"class {name!r} is listed twice: the one with the id {category} has no boxes and is left out"
            problems.append(Problem(where, "", None, what))
    return by_id, problems


def _order(identity: Id) -> tuple[bool, int, str]:
    """Sort key: integers and words of digits by number, then other words."""
    word = str(identity)
    digits = word.isdecimal() and word.isascii()
    return (not digits, int(word) if digits and len(word) < 100 else 0, word)


def _numbering(where: str, by_id: dict[Id, str], classes: list[str] | None) -> tuple[list[str], list[Id]]:
    """Return (classes, the file's id of each); a class that is not in the file gets an unused id."""
    if classes is None:
        return list(by_id.values()), list(by_id)
    check_known(where, by_id.values(), classes)
    ids = {name: category for category, name in by_id.items()}
    unused = 1 + max((identity for identity in by_id if isinstance(identity, int)), default=0)
    return classes, [ids.get(name, unused + number) for number, name in enumerate(classes)]


def _objects(
    where: str,
    annotations: list[dict[str, Any]],
    places: dict[Id, int],
    numbers: dict[Id, int],
    names: list[str],
) -> tuple[list[Annotated], list[Problem]]:
    """Return (boxes whose image and class are known, problems of the others)."""
    objects: list[Annotated] = []
    problems: list[Problem] = []
    for annotation in annotations:
        identity, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        identity = identity if is_id(identity) else None
        place = places.get(image) if is_id(image) else None
        number = numbers.get(category) if is_id(category) else None
        box = box_of(annotation)
        if place is None:
            box = f"is of the image with the id {image!r}, which is not listed, and is left out"
        elif number is None:
            box = f"is of the category with the id {category!r}, which is not listed, and is left out"
        if isinstance(box, str) or place is None or number is None:
            problems.append(Problem(where, "" if place is None else names[place], identity, str(box)))
        else:
            objects.append(Annotated(place, number, box, bool(annotation.get("iscrowd")), identity, where))
    return objects, problems


def _scorable(annotation: dict[str, Any], listed: set[Id], categories: set[Id]) -> bool:
    image, category = annotation.get("image_id"), annotation.get("category_id")
    known = is_id(image) and image in listed and is_id(category) and category in categories
    return known and not isinstance(box_of(annotation), str)


def look(path: Path) -> dict[str, Openers]:
    """Return openers, by name, of the data in `path`: a JSON file, or a directory in one of the layouts."""
    if path.is_file():
        return {ONE_FILE: json_file(path)} if path.suffix.lower() == ".json" else {}
    found = {"COCO files": _files_by_split(path), "Roboflow's COCO files": _directories_by_split(path)}
    if not any(found.values()):
        found = {ONE_FILE: _only_file(path)}
    return {kind: openers for kind, openers in found.items() if openers}


def json_file(path: Path) -> Openers:
    """Return the openers of one COCO file, whose images lie in a directory of its name, in images/, or beside it.

    The test split is the whole file; train and val are drawn from it.
    """
    near, above = _image_directories(path.parent, path), _image_directories(path.parent.parent, path)
    directories = [*above[:-1], *near[:-1], path.parent, path.parent.parent]
    return {split: partial(CocoSource, path, directories) for split in ("train", "test")}


def _files_by_split(root: Path) -> Openers:
    """COCO's own layout: annotations/instances_train2017.json with train2017/, images/train2017/ or images/."""
    paths = next((found for place in _places(root) if _by_split(found := files_in(place, ".json"))), [])
    files = {split: single(root, f"files for the split {split!r}", p) for split, p in _by_split(paths).items()}
    there = [p for place in _places(root) for p in files_in(place, ".json")] if files else []
    others = [p for p in there if p not in files.values() and not _is_of_another_kind(p) and _is_coco(p)]
    unused = not_used(others, "another file is of that split, or their names say none")
    return {s: partial(CocoSource, p, _image_directories(root, p), unused=unused) for s, p in files.items()}


def _by_split(paths: list[Path]) -> dict[str, list[Path]]:
    """Files by the split in their names; `dogs_train.json` counts where no plain name is of that split."""
    plain, loose = dict[str, list[Path]](), dict[str, list[Path]]()
    for path in paths:
        split, rest = split_of(path.stem)
        if split and not _is_of_another_kind(path):
            (loose if set(rest) - _FILLERS else plain).setdefault(split, []).append(path)
    return {**loose, **plain}


def _is_of_another_kind(path: Path) -> bool:
    return not _OTHER_KINDS.isdisjoint(split_of(path.stem)[1])


def _directories_by_split(root: Path) -> Openers:
    """Directories of splits with a file in each, as Roboflow's export has them: train/_annotations.coco.json."""
    files: dict[Path, list[Path]] = {}
    for directory in (d for d in sub_directories(root) if exact_split(d.name)):
        if paths := [p for p in files_in(directory, ".json") if not _is_of_another_kind(p) and _is_coco(p)]:
            files[directory] = paths
    found = {split: (d, single(d, "COCO files", files[d])) for split, d in by_split(files).items()}
    return {split: partial(CocoSource, path, [d, *_inside(d)]) for split, (d, path) in found.items()}


def _only_file(root: Path) -> Openers:
    """The only COCO file in a directory or its annotations/, as Label Studio (result.json) and CVAT export it."""
    files = [path for place in _places(root) for path in files_in(place, ".json") if _is_coco(path)]
    return json_file(single(root, "COCO files", files)) if files else {}


def _places(root: Path) -> list[Path]:
    """Directories that may hold COCO files, the likely one first."""
    return [*children(root, "annotations", "annotation", "labels"), root]


def _is_coco(path: Path) -> bool:
    """Return whether a JSON file has COCO's parts near its beginning."""
    with path.open("rb") as file:
        start = file.read(MOST_JSON)
    return bool(re.search(rb'"(images|annotations)"\s*:\s*\[', start)) and b'"shapes"' not in start


def _image_directories(root: Path, json_path: Path) -> list[Path]:
    """Directories that may hold the images of a file: named as it is, or as its split, in `root` or its images/."""
    stem = json_path.stem.removeprefix("instances_")
    split = split_of(stem)[0]
    parents = [root, *_inside(root)]
    named = [parent / stem for parent in parents]
    named += [d for parent in parents if split for d in sub_directories(parent) if exact_split(d.name) == split]
    return [*named, *_inside(root), root]


def _inside(root: Path) -> list[Path]:
    directory = child(root, *_IMAGES)
    return [directory] if directory else []
