"""Open any data set of images with boxes; its format is recognised by its contents."""

from pathlib import Path

import numpy as np

from sasa.data.detection import coco, voc, yolo
from sasa.data.detection.coco_json import load
from sasa.data.detection.source import DetectionSubset, ImageFiles, Look, Openers
from sasa.data.directories import files_in, has_images, look_through, sub_directories
from sasa.data.findings import check_fraction, describe_duplicates, describe_split, describe_unlisted
from sasa.data.formats import check_single, recognise, tool_of
from sasa.data.naming import SPLITS
from sasa.data.text import printable, system_errors
from sasa.errors import ArgumentError, DataError
from sasa.files import check_no_variables, expand_user

# The formats. A format is a module with a function `look`, and a line here.
FORMATS: tuple[Look, ...] = (coco.look, voc.look, yolo.look)
LOOKED_FOR = (
    "looked for annotations/instances_train.json (or train2017), train/_annotations.coco.json, "
    "Annotations/*.xml with JPEGImages/, and data.yaml or labels/*.txt with images/"
)


def open_detection_splits(data: str, held_out: float, seed: int) -> tuple[ImageFiles, ImageFiles]:
    """Open the training images and the held-out images of a data set; their `description` says what was found.

    Args:
        data: a directory in the layout of COCO, of Pascal VOC or of YOLO, or of their exports by annotation tools; or
            one COCO file, or YOLO's data.yaml.
        held_out: the fraction of the training images that is held out where the set has no validation split.
        seed: seed of that draw.

    Raises:
        DataError: no such path, an unknown format, or damaged files; names the path.
    """
    openers, notes = _openers(data)
    train, place = _open(data, openers, "train", None), "the validation split"
    other = _open(data, openers, "val", train.classes) if "val" in openers else None
    notes += [note for note in train.description if note not in notes]
    notes += describe_unlisted(train, other)
    if other is None:
        train, other = _draw(data, train, held_out, seed)
        place = f"{held_out:g} of the images, drawn with seed {seed}"
    described = describe_split("held-out", place, other, other.counts(), ("box", "boxes"))
    described += [note for note in other.description if note not in notes]
    train.description = [*notes, *describe_split("training", printable(data), train, train.counts(), ("box", "boxes"))]
    other.description = [*described, *describe_duplicates(train, other)]
    return train, other


def is_detection_data(data: str) -> bool:
    """Return whether a path holds boxes in one of the formats; raises `DataError` if files of boxes are damaged."""
    root = expand_user(data)
    with system_errors(data):
        return root.exists() and bool(_recognise(root)[0])


def open_detection_split(
    data: str, split: str, held_out: float = 0.2, seed: int = 0, classes: list[str] | None = None
) -> ImageFiles:
    """Open one split; "train" and "val" are what `open_detection_splits` gives.

    Args:
        data, held_out, seed: as there.
        split: "train", "val" or "test", which is the whole of a single COCO file.
        classes: class names in the order of the labels of the network to be scored; by default those of the split.

    Raises:
        DataError: as there, or the set has no such split, or a class that is not in `classes`.
        ArgumentError: another value of `split`.
    """
    if split not in SPLITS:
        raise ArgumentError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    openers, _ = _openers(data)
    if split == "test" or "val" in openers:
        return _open(data, openers, split, classes)
    train, other = _draw(data, _open(data, openers, "train", classes), held_out, seed)
    return train if split == "train" else other


def _openers(data: str) -> tuple[Openers, list[str]]:
    """(openers of the splits, sentences about the layout)."""
    root = expand_user(data)
    check_no_variables(data)
    if not root.exists():
        raise DataError(f"{printable(root)} does not exist")
    with system_errors(data):
        found, notes = _recognise(root)
        if not found and not root.is_dir():
            raise DataError(f"{printable(root)} is not a directory, a COCO file in JSON or a data.yaml")
        if not found:
            raise DataError(
                f"{printable(root)} is not COCO JSON, Pascal VOC XML or YOLO's text: it holds {_contents(root)}; "
                f"{LOOKED_FOR}"
            )
    check_single(root, list(found))
    kind, openers = next(iter(found.items()))
    if "test" in openers and kind != coco.ONE_FILE:
        notes.append("not used in training: the test split")
    return openers, notes


def _recognise(root: Path) -> tuple[dict[str, Openers], list[str]]:
    """(openers by format of a path, or of the directory that it only wraps; sentences about that)."""
    found = recognise(root, FORMATS)
    if found or not root.is_dir():
        return found, []
    inner, notes = look_through(root, lambda path: bool(recognise(path, FORMATS)))
    return recognise(inner, FORMATS), notes


def _contents(root: Path) -> str:
    """Describe the contents of a directory without boxes in a known format, for the error."""
    directories = (root, *sub_directories(root))
    for suffix, what in ((".csv", "a CSV file"), (".json", "a JSON file"), (".xml", "an XML file")):
        if path := next((p for directory in directories for p in files_in(directory, suffix)), None):
            return f"{what} ({printable(path.relative_to(root))})" + (_kind(path) if suffix != ".csv" else "")
    if any(map(has_images, directories)):
        return "images without boxes"
    return "nothing that looks like boxes" if any(root.iterdir()) else "nothing, it is empty"


def _kind(path: Path) -> str:
    """What is known of an annotation file that is not read."""
    if tool := tool_of(path):
        return f": {printable(path)} is {tool}'s format; export it as COCO, Pascal VOC or YOLO"
    try:
        if path.suffix.lower() == ".json":
            load(path)
    except DataError as error:
        return f": {error}"
    return ""


def _open(data: str, openers: Openers, split: str, classes: list[str] | None) -> ImageFiles:
    if split not in openers:
        raise DataError(f"{data} has no split {split!r}, only {' and '.join(map(repr, openers))}")
    with system_errors(data):
        return openers[split](classes)


def _draw(data: str, source: ImageFiles, held_out: float, seed: int) -> tuple[ImageFiles, ImageFiles]:
    """Return (the rest, a fraction of the images); the same for the same seed."""
    check_fraction(held_out)
    count = max(1, round(len(source) * held_out))
    if count >= len(source):
        raise DataError(f"{data} has {len(source)} images, too few to hold out a fraction of {held_out}")
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    return DetectionSubset(source, sorted(order[count:])), DetectionSubset(source, sorted(order[:count]))
