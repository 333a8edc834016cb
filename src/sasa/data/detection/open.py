"""One path opens any set of images with boxes: how they are kept, its contents say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sasa.data.classification.names import printable
from sasa.data.detection.layouts import SPLITS, Openers, coco_splits, json_file, roboflow_splits, voc_splits
from sasa.data.detection.other_formats import what_lies_in
from sasa.data.detection.source import DetectionSource, DetectionSubset
from sasa.errors import ArgumentError, DataError

LOOKED_FOR = (
    "looked for annotations/instances_train.json (or train2017), train/_annotations.coco.json, "
    "and Annotations/*.xml with JPEGImages/"
)


def open_detection_splits(data: str, held_out: float, seed: int) -> tuple[DetectionSource, DetectionSource]:
    """The training images and the held-out images of a set.

    Args:
        data: a folder in the layout of COCO, of Roboflow's COCO export or of Pascal VOC; or one COCO file.
        held_out: the fraction of the training images that is held out where the set has no validation split.
        seed: of that draw.

    Raises:
        DataError: nothing there, not what was expected, or damaged; names the path.
    """
    openers = _openers(data)
    train = _open(data, openers, "train", None)
    if "val" in openers:
        return train, _open(data, openers, "val", train.classes)
    return _draw(data, train, held_out, seed)


def open_detection_split(
    data: str, split: str, held_out: float = 0.2, seed: int = 0, classes: list[str] | None = None
) -> DetectionSource:
    """The images of one split; "train" and "val" are what `open_detection_splits` gives.

    Args:
        data, held_out, seed: as there. Of a COCO file given on its own "test" is the whole.
        split: "train", "val" or "test".
        classes: those to number by (of the network that is to be scored); by default those of the split's own file.

    Raises:
        DataError: as there, or the set has no such split, or a class that is not in `classes`.
        ArgumentError: no such split anywhere.
    """
    if split not in SPLITS:
        raise ArgumentError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    openers = _openers(data)
    if split == "test" or "val" in openers:
        return _open(data, openers, split, classes)
    train, other = _draw(data, _open(data, openers, "train", classes), held_out, seed)
    return train if split == "train" else other


def _openers(data: str) -> Openers:
    root = Path(data).expanduser()
    with _sentences(data):
        if root.is_file() and root.suffix.lower() == ".json":
            return json_file(root)
        if root.is_dir():
            return _of_folder(root)
    if root.exists():
        raise DataError(f"{printable(root)} is not a folder and not a COCO file in JSON")
    raise DataError(f"{printable(root)} is not there")


def _of_folder(root: Path) -> Openers:
    kinds = {"COCO files": coco_splits, "Roboflow's COCO files": roboflow_splits, "Pascal VOC": voc_splits}
    found = {kind: openers for kind, look in kinds.items() if (openers := look(root))}
    if not found:
        raise DataError(
            f"{printable(root)} is not COCO JSON or Pascal VOC XML: it holds {what_lies_in(root)}; {LOOKED_FOR}"
        )
    if len(found) > 1:
        raise DataError(
            f"{printable(root)} holds {' and '.join(found)}: give the path of the one that is meant, or move the "
            "others away"
        )
    return next(iter(found.values()))


def _open(data: str, openers: Openers, split: str, classes: list[str] | None) -> DetectionSource:
    if split not in openers:
        raise DataError(f"{data} has no split {split!r}, only {' and '.join(map(repr, openers))}")
    with _sentences(data):
        return openers[split](classes)


@contextmanager
def _sentences(data: str) -> Iterator[None]:
    """Folders and files that may not be read, or cannot exist."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{printable(error.filename or data)} cannot be read: {error.strerror}") from error


def _draw(data: str, source: DetectionSource, held_out: float, seed: int) -> tuple[DetectionSource, DetectionSource]:
    """(the rest, a fraction of the images): the same for the same seed."""
    count = max(1, round(len(source) * held_out))
    if count >= len(source):
        raise DataError(f"{data} has {len(source)} images, too few to hold out a fraction of {held_out}")
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    return DetectionSubset(source, sorted(order[count:])), DetectionSubset(source, sorted(order[:count]))
