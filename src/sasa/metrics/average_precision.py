"""COCO's mean average precision of detected boxes, computed by faster-coco-eval.

Boxes are [x, y, width, height] in pixels, as in COCO's annotation files.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sasa.errors import DataError, SasaError

AT_75 = 5  # index of 0.75 in the ten IoU thresholds 0.5, 0.55, .. 0.95

Places = dict[Hashable, int]  # id of an image or class -> its number for the library, from 1


@dataclass(frozen=True)
class AveragePrecision:
    """Mean average precision: figures 0 to 1, and nan where the ground truth has no box."""

    map: float  # mean over classes and over the ten IoU thresholds 0.5 to 0.95
    map50: float  # with the threshold 0.5
    map75: float  # with the threshold 0.75
    small: float  # `map` of boxes below 32 x 32 pixels
    medium: float  # up to 96 x 96 pixels
    large: float
    per_class: dict[str, tuple[float, float]]  # (map, map50) by class name
    boxes: dict[str, int]  # number of true boxes by class name, without crowds
    images: int  # number of images scored
    detections: int  # number of detections in all images

    @property
    def quality(self) -> tuple[float, float]:
        """(map, map50), to compare checkpoints: higher is better. Never nan."""
        return self.map, self.map50

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON, with None for nan."""
        known = {name: _or_none(value) for name, value in asdict(self).items()}
        known["pictures"] = known.pop("images")  # the key in the files of earlier versions
        return known | {"per_class": {name: [_or_none(f) for f in pair] for name, pair in self.per_class.items()}}


def average_precision(ground_truth: dict[str, Any], detections: list[dict[str, Any]]) -> AveragePrecision:
    """Score detections as COCO does, with at most the 100 best of each image and class.

    Neither argument is changed. Ids of images and classes may be integers or strings. As in COCO, boxes of a class that
    is not in `categories` are ignored, and crowds count neither as found nor as missed.

    Args:
        ground_truth: COCO's annotations. An annotation without `area` gets that of its box; one without a box of four
            finite numbers, or of an image that is not in `images`, is ignored.
        detections: COCO's results: image_id, category_id, bbox and score of each; may be empty.

    Raises:
        DataError: the ground truth has no box, or a detection has an unknown image or numbers that are not finite.
    """
    images, classes = _places(ground_truth["images"]), _places(ground_truth["categories"])
    _check_detections(detections, images)
    truth = [
        _annotation(each, number, images, classes)
        for number, each in enumerate(ground_truth["annotations"], start=1)
        if each.get("image_id") in images and each.get("category_id") in classes and _is_box(each.get("bbox"))
    ]
    found = [
        _detection(each, number, images, classes)
        for number, each in enumerate(detections, start=1)
        if each["category_id"] in classes
    ]
    precision_TRKA = _evaluate(truth, found, len(images), len(classes))
    if not (precision_TRKA[..., 0] > -1).any():
        raise DataError(f"the ground truth of {len(images)} images has no boxes to score against")
    names = {classes[each["id"]]: str(each.get("name", each["id"])) for each in ground_truth["categories"]}
    counted = Counter(each["category_id"] for each in truth if not each["iscrowd"])
    boxes = {name: counted[place] for place, name in names.items()}
    return _summary(precision_TRKA, [names[place] for place in sorted(names)], boxes, len(images), len(detections))


def _summary(
    precision_TRKA: np.ndarray, names: list[str], boxes: dict[str, int], images: int, detections: int
) -> AveragePrecision:
    """Average over the classes and sizes of which the ground truth has boxes."""
    all_TRK, *sizes = np.moveaxis(precision_TRKA, -1, 0)
    per_class = {name: (_mean(all_TRK[..., k]), _mean(all_TRK[0, :, k])) for k, name in enumerate(names)}
    figures = map(_mean, (all_TRK, all_TRK[0], all_TRK[AT_75], *sizes))
    return AveragePrecision(*figures, per_class=per_class, boxes=boxes, images=images, detections=detections)


def _evaluate(truth: list[dict[str, Any]], found: list[dict[str, Any]], images: int, classes: int) -> np.ndarray:
    """Compute precision (T, R, K, A): T IoU thresholds, R recalls, K classes, A sizes (all, small, medium, large).

    It is -1 where a class has no box of the size.
    """
    COCO, COCOeval = _library()
    frame = {
        "images": [{"id": place} for place in range(1, images + 1)],
        "categories": [{"id": place} for place in range(1, classes + 1)],
    }
    sides = (COCO(frame | {"annotations": side}, print_function=_silent) for side in (truth, found))
    evaluation = COCOeval(*sides, iouType="bbox", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]  # the last index is the limit of 100 detections


def _library() -> tuple[Callable[..., Any], Callable[..., Any]]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise SasaError("average precision needs faster-coco-eval: pip install 'sasa[train]'") from error
    return COCO, COCOeval_faster


def _silent(*_: Any) -> None:
    """Discard what the library prints."""


def _places(entries: list[dict[str, Any]]) -> Places:
    """Number the ids from 1, because the library takes only integers.

    Integers keep their order, on which COCO's figures depend if scores are equal.
    """
    ids = list({each["id"]: None for each in entries})
    ordered = sorted(ids) if all(isinstance(key, int) for key in ids) else ids
    return {key: place for place, key in enumerate(ordered, start=1)}


def _annotation(each: dict[str, Any], number: int, images: Places, classes: Places) -> dict[str, Any]:
    """Convert an annotation for the library, with a new id: it would misread 0, and an id that occurs twice."""
    box = [float(side) for side in each["bbox"]]
    area = each.get("area")
    return {
        "id": number,
        "image_id": images[each["image_id"]],
        "category_id": classes[each["category_id"]],
        "bbox": box,
        "area": float(area) if area is not None and _are_finite([area]) else box[2] * box[3],
        "iscrowd": int(bool(each.get("iscrowd"))),
    }


def _detection(each: dict[str, Any], number: int, images: Places, classes: Places) -> dict[str, Any]:
    known = {"image_id": each["image_id"], "category_id": each["category_id"], "bbox": each["bbox"]}
    return _annotation(known, number, images, classes) | {"score": float(each["score"])}


def _check_detections(detections: list[dict[str, Any]], images: Places) -> None:
    for each in detections:
        if each["image_id"] not in images:
            raise DataError(f"a detection is of image {each['image_id']!r}, which is not in the ground truth")
        if not _is_box(each["bbox"]) or not _are_finite([each["score"]]):
            raise DataError(
                f"a detection in image {each['image_id']!r} has the box {each['bbox']} and the score "
                f"{each['score']}: a box must be four finite numbers without a negative width or height"
            )


def _is_box(box: Any) -> bool:
    return isinstance(box, list | tuple) and len(box) == 4 and _are_finite(box) and min(box[2:]) >= 0


def _are_finite(numbers: Sequence[Any]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except TypeError:  # None, or text
        return False


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else math.nan


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
