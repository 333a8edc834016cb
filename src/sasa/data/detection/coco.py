"""COCO's format: one JSON file of boxes for a folder of images."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasa.data.classification.names import printable
from sasa.data.detection.annotations import Problem
from sasa.data.detection.cleaning import Objects, clean
from sasa.data.detection.coco_json import box_of, is_id, load
from sasa.data.detection.source import ImageFiles, check_inside, check_there, upright_size
from sasa.errors import DataError


class CocoSource(ImageFiles):
    """The images that a COCO file lists, with its boxes; outlines are ignored, `iscrowd` boxes are kept as crowds.

    Args:
        json_path: the file.
        image_folder: below which the images' `file_name` lie; of several the one that holds the first image.
        classes: the classes to number by; the file may have fewer, not others. By default its own, sorted by id;
            then a class without boxes is a problem.

    Raises:
        DataError: the file is damaged or no COCO, says two things with one id, has a class that is not in `classes`,
            lists images that are not there, or has no box that can be used.
    """

    def __init__(self, json_path: Path, image_folder: Path | Sequence[Path], classes: list[str] | None = None) -> None:
        self._json, where = str(json_path), printable(json_path)
        document = load(json_path)
        names, image_ids = _images(where, document["images"])
        folder = _folder_of(names[0], [image_folder] if isinstance(image_folder, Path) else image_folder)
        check_there(where, folder, names)
        sizes = np.array([_size(image, folder / name) for image, name in zip(document["images"], names, strict=True)])
        by_id, problems = _categories(where, document)
        known, ids = _numbering(where, by_id, classes)
        places = {image_id: place for place, image_id in enumerate(image_ids)}
        numbers = {category: known.index(name) for category, name in by_id.items()}
        objects, unusable = _objects(where, document["annotations"], places, numbers, names)
        table, cleaned = clean(objects, unusable, sizes, names, where)
        problems += cleaned
        if classes is None:
            unseen = sorted(set(range(len(known))) - table.seen())
            problems += [Problem(where, "", None, f"class {known[label]!r} has no boxes") for label in unseen]
        super().__init__(folder, names, image_ids, sizes, table, known, ids, problems)

    def coco(self) -> dict[str, Any]:
        """The file's own contents, read again, so that a score is the one that others find with this file.

        Boxes without area, repeated ones and crowds are in it. Left out are annotations that no one can score:
        without a proper box, or of an image or class that is not listed. `iscrowd` (0), `area` (of the box) and `id`
        are filled in where they are missing. Outlines are left out.
        """
        document = load(Path(self._json))
        listed = {image["id"] for image in document["images"]}
        categories = {category["id"] for category in document["categories"]}
        usable = [a for a in document["annotations"] if _scorable(a, listed, categories)]
        if any("id" not in annotation for annotation in usable):
            usable = [{**annotation, "id": number} for number, annotation in enumerate(usable, 1)]
        parts = {part: document[part] for part in ("images", "categories")}
        return {"info": document.get("info", {}), **parts, "annotations": [_completed(a) for a in usable]}


def _images(where: str, images: list[dict[str, Any]]) -> tuple[list[str], list[int | str]]:
    """File names and ids."""
    for image in images:
        name = image.get("file_name")
        if not is_id(image.get("id")):
            raise DataError(
                f"{where} lists an image {str(name)!r} whose id is no number and no word: {image.get('id')!r}"
            )
        if not isinstance(name, str):
            raise DataError(f"{where} lists the image with the id {image['id']!r} without a file_name")
        check_inside(where, name)
    _check_once(where, "images", [image["id"] for image in images])
    return [image["file_name"] for image in images], [image["id"] for image in images]


def _check_once(where: str, what: str, ids: list[Any]) -> None:
    identity, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise DataError(f"{where} lists {count} {what} with the id {identity!r}")


def _folder_of(first: str, folders: Sequence[Path]) -> Path:
    holding = (folder for folder in folders if (folder / first).is_file())
    return next(holding, None) or next((folder for folder in folders if folder.is_dir()), folders[0])


def _size(image: dict[str, Any], path: Path) -> tuple[int, int]:
    """(height, width), from the image's header where the file does not say."""
    height, width = image.get("height"), image.get("width")
    if isinstance(height, int) and isinstance(width, int) and 0 < height < 2**31 and 0 < width < 2**31:
        return height, width
    return upright_size(path)


def _categories(where: str, document: dict[str, Any]) -> tuple[dict[int, str], list[Problem]]:
    """Names by id, in the order of the ids.

    Some tools list the project's own name as a class that is never used; it may be the name of a class as well.
    """
    for category in document["categories"]:
        if not isinstance(category.get("id"), int) or not isinstance(category.get("name"), str):
            raise DataError(f"{where} has a category that lacks an integer id or a name: {category}")
    _check_once(where, "categories", [category["id"] for category in document["categories"]])
    by_id = {category["id"]: category["name"] for category in document["categories"]}
    by_id = dict(sorted(by_id.items()))
    used = {a["category_id"] for a in document["annotations"] if isinstance(a.get("category_id"), int)}
    problems = []
    for name in [name for name, count in Counter(by_id.values()).items() if count > 1]:
        same = [category for category in by_id if by_id[category] == name]
        kept = [category for category in same if category in used] or same[:1]
        if len(kept) > 1:
            raise DataError(
                f"{where} has boxes of two classes of the same name {name!r}, with the ids {kept[0]} and {kept[1]}"
            )
        for category in set(same) - set(kept):
            del by_id[category]
            what = f"class {name!r} is there twice: the one with the id {category} has no boxes and is left out"
            problems.append(Problem(where, "", None, what))
    return by_id, problems


def _numbering(where: str, by_id: dict[int, str], classes: list[str] | None) -> tuple[list[str], list[int]]:
    """(classes, the file's id of each); a class that the file does not have gets an id that the file does not use."""
    if classes is None:
        return list(by_id.values()), list(by_id)
    for name in by_id.values():
        if name not in classes:
            raise DataError(f"{where} has a class {name!r} that the training images lack")
    ids = {name: category for category, name in by_id.items()}
    return classes, [ids.get(name, max(by_id) + 1 + number) for number, name in enumerate(classes)]


def _objects(
    where: str,
    annotations: list[dict[str, Any]],
    places: dict[int | str, int],
    numbers: dict[int, int],
    names: list[str],
) -> tuple[Objects, list[Problem]]:
    """The boxes whose image and class are known, and what is wrong with the others."""
    objects, problems = Objects(), []
    for annotation in annotations:
        identity, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        identity = identity if is_id(identity) else None
        place = places.get(image) if is_id(image) else None
        number = numbers.get(category) if isinstance(category, int) else None
        box = box_of(annotation)
        if place is None:
            box = f"is of the image with the id {image!r}, which is not listed, and is left out"
        elif number is None:
            box = f"is of the category with the id {category!r}, which is not listed, and is left out"
        if isinstance(box, str) or place is None or number is None:
            problems.append(Problem(where, "" if place is None else names[place], identity, str(box)))
        else:
            objects.add(place, number, box, bool(annotation.get("iscrowd")), identity, where)
    return objects, problems


def _scorable(annotation: dict[str, Any], listed: set[int | str], categories: set[int]) -> bool:
    image, category = annotation.get("image_id"), annotation.get("category_id")
    known = is_id(image) and image in listed and isinstance(category, int) and category in categories
    return known and not isinstance(box_of(annotation), str)


def _completed(annotation: dict[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    return {"iscrowd": 0, "area": width * height, **annotation}
