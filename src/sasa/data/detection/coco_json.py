"""COCO's annotation files: read, and told from what else is written in JSON."""

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

from sasa.data.classification.names import printable
from sasa.errors import DataError

PARTS = ("images", "annotations", "categories")


def load(path: Path) -> dict[str, Any]:
    """The file's contents, without outlines ("segmentation"), which are most of it and of no use here.

    Raises:
        DataError: it cannot be read, is damaged, or holds no boxes in COCO's format.
    """
    where = printable(path)
    try:
        document = json.loads(path.read_bytes(), object_hook=_without_segmentation)
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is damaged: no JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:  # no Unicode, a number of 5,000 digits, brackets without end
        raise DataError(f"{where} is damaged: it cannot be read as JSON") from error
    _check_kind(where, document)
    _check_parts(where, document)
    _check_boxes(where, document["annotations"])
    return document


def _without_segmentation(values: dict[str, Any]) -> dict[str, Any]:
    values.pop("segmentation", None)
    return values


def _check_kind(where: str, document: Any) -> None:
    """An object with the three parts, or a sentence about what it is instead."""
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


def box_of(annotation: dict[str, Any]) -> tuple[float, float, float, float] | str:
    """Left, top, right, bottom; or what is wrong with the box that the annotation gives."""
    if "bbox" not in annotation:
        return "has no bbox and is left out"
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_finite(value) for value in bbox):
        return f"has a bbox that is not four finite numbers ({_short(bbox)}) and is left out"
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_id(value: Any) -> TypeGuard[int | str]:
    """Whether a value can be the id of an image: an integer or a word."""
    return isinstance(value, int | str) and not isinstance(value, bool)
