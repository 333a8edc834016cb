"""Read COCO's annotation files: recognise other JSON, and make ids consistent."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from sasa.data.text import printable, read_bytes
from sasa.errors import DataError

PARTS = ("images", "annotations", "categories")
Id = int | str


def load(path: Path) -> dict[str, Any]:
    """Read the file, without outlines ("segmentation"), which are most of the file; missing boxes are made of them.

    An image that is listed under several ids is kept once, with the boxes of all; "joined" has the names of these.

    Ids are as the file has them, but numbers that pandas made floats (1.0) are integers, and annotations name images
    and categories by the ids in the lists of those, also where the file has "7" for 7, or a name for the id. `iscrowd`
    is a number, also where the file has "0".

    Raises:
        DataError: it cannot be read, is damaged, or holds no boxes in COCO's format.
    """
    where = printable(path)
    try:
        document = json.loads(read_bytes(path), object_hook=_without_outline)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is damaged: no JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:  # not Unicode, a number of 5,000 digits, endless brackets
        raise DataError(f"{where} is damaged: it cannot be read as JSON") from error
    _check_kind(where, document)
    _check_parts(where, document)
    _check_boxes(where, document["annotations"])
    _unify(document)
    _join_repeated(document)
    return document


def _without_outline(values: dict[str, Any]) -> dict[str, Any]:
    outline = values.pop("segmentation", None)
    if isinstance(outline, list) and "bbox" not in values:
        numbers = [number for polygon in outline if isinstance(polygon, list) for number in polygon]
        if len(numbers) >= 6 and all(map(_is_finite, numbers)):
            x, y = min(numbers[::2]), min(numbers[1::2])
            values["bbox"] = [x, y, max(numbers[::2]) - x, max(numbers[1::2]) - y]
    return values


def _join_repeated(document: dict[str, Any]) -> None:
    """Keep one entry of images that are listed several times, with different ids and equal sizes (LIVECell)."""
    counts = Counter(image["id"] for image in document["images"] if is_id(image.get("id")))
    kept: dict[Any, dict[str, Any]] = {}
    joined: dict[Id, Id] = {}
    images, names = [], []
    for image in document["images"]:
        key = tuple(map(repr, (image.get(name) for name in ("file_name", "height", "width"))))
        first = kept.setdefault(key if image.get("file_name") else id(image), image)
        # An id of several images is an error, which is found later.
        if first is not image and is_id(image.get("id")) and is_id(first.get("id")) and counts[image["id"]] == 1:
            joined[image["id"]] = first["id"]
            names.append(image["file_name"])
        else:
            images.append(image)
    document |= {"images": images, "joined": names}
    for annotation in document["annotations"] if joined else ():
        if is_id(image_id := annotation.get("image_id")):
            annotation["image_id"] = joined.get(image_id, image_id)


def _check_kind(where: str, document: Any) -> None:
    """Raise a `DataError` that names the format unless the values are an object with COCO's three parts."""
    if isinstance(document, list):
        results = bool(document) and isinstance(document[0], dict) and "score" in document[0]
        what = "a list of results (boxes with scores)" if results else "a list"
        raise DataError(f"{where} is {what}, not COCO annotations: those are an object with {', '.join(PARTS)}")
    if isinstance(document, dict) and "shapes" in document:
        raise DataError(f'{where} is LabelMe\'s format (it has "shapes"), not COCO annotations')
    missing = [part for part in PARTS if part not in document] if isinstance(document, dict) else list(PARTS)
    if missing:
        raise DataError(f"{where} is not COCO annotations: it has no {' and no '.join(missing)}")


def _check_parts(where: str, document: dict[str, Any]) -> None:
    for part in PARTS:
        entries = document[part]
        if isinstance(entries, dict):  # as in LIVECell: values by id
            entries = document[part] = list(entries.values())
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{where} is not COCO annotations: its {part} are not a list of objects")
    for part, what in (("images", "images"), ("annotations", "boxes"), ("categories", "classes")):
        if not document[part]:
            raise DataError(f"{where} has no {what}: its list of {part} is empty")


def _check_boxes(where: str, annotations: list[dict[str, Any]]) -> None:
    if any("bbox" in annotation for annotation in annotations):
        return
    kinds = (("caption", "captions"), ("keypoints", "keypoints"), ("segments_info", "panoptic segments"))
    found = next((name for key, name in kinds if key in annotations[0]), "annotations")
    raise DataError(
        f"{where} holds {found} without boxes (bbox): the file of the boxes is called instances_... by COCO"
    )


def _unify(document: dict[str, Any]) -> None:
    """Make ids, names and crowds of one type each, as `load` describes."""
    for entry in (entry for part in PARTS for entry in document[part]):
        if "id" in entry:
            entry["id"] = _whole(entry["id"])
    for annotation in document["annotations"]:
        if isinstance(crowd := annotation.get("iscrowd"), str):  # "0" would count as true
            annotation["iscrowd"] = int(crowd.strip().lower() not in ("", "0", "0.0", "false"))
    for image in document["images"]:
        if "file_name" not in image and isinstance(image.get("coco_url"), str):  # LVIS
            image["file_name"] = image["coco_url"].rpartition("/")[2]
    for category in document["categories"]:
        if type(category.get("name")) in (int, float):
            category["name"] = str(_whole(category["name"]))
    for key, entries, name in (
        ("image_id", document["images"], "file_name"),
        ("category_id", document["categories"], "name"),
    ):
        listed = _Listed(entries, name)
        for annotation in document["annotations"]:
            if key in annotation:
                annotation[key] = listed.find(_whole(annotation[key]))


def _whole(value: Any) -> Any:
    """Convert a float that is a whole number to int (pandas writes floats in columns with missing values)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Listed:
    """Ids of a list, found also by the same number in another form (7 for "7" or "0007"), or by the entry's name."""

    def __init__(self, entries: list[dict[str, Any]], name: str) -> None:
        self._ids = {entry["id"] for entry in entries if is_id(entry.get("id"))}
        self._by_number = _unique((_number(identity), identity) for identity in self._ids)
        named = [entry for entry in entries if is_id(entry.get(name)) and is_id(entry.get("id"))]
        self._by_name = _unique((entry[name], entry["id"]) for entry in named)

    def find(self, value: Any) -> Any:
        """The listed id; the value itself where there is none."""
        if not is_id(value) or value in self._ids:
            return value
        number = _number(value)
        other = self._by_number.get(number, value) if number is not None else value
        return self._by_name.get(value, other)


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return a dictionary of the pairs whose key occurs once."""
    pairs = list(pairs)
    counts = Counter(key for key, _ in pairs)
    return {key: value for key, value in pairs if counts[key] == 1}


def _number(identity: Id) -> int | None:
    if isinstance(identity, int) or (identity.isdecimal() and identity.isascii() and len(identity) < 100):
        return int(identity)
    try:
        number = float(identity)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def box_of(annotation: dict[str, Any]) -> tuple[float, float, float, float] | str:
    """Return (left, top, right, bottom), or the problem with the annotation's box."""
    if "bbox" not in annotation:
        return "has no bbox and is left out"
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_finite(value) for value in bbox):
        text = json.dumps(bbox)
        text = text if len(text) <= 60 else text[:57] + "..."
        return f"has a bbox that is not four finite numbers ({text}) and is left out"
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_id(value: Any) -> TypeGuard[Id]:
    """Return whether a value can be an id: an integer or a string."""
    return isinstance(value, int | str) and not isinstance(value, bool)
