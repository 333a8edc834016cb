"""How images with boxes lie in folders: the splits that are there, each with what opens it."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sasa.data.classification.names import printable
from sasa.data.classification.splits import files_in
from sasa.data.detection.coco import CocoSource
from sasa.data.detection.source import DetectionSource
from sasa.data.detection.voc import ANNOTATIONS, LISTS, VocSource, read_list, training_list
from sasa.errors import DataError

# A split's opener takes the classes to number by, or None.
Openers = dict[str, Callable[[list[str] | None], DetectionSource]]

SPLITS = ("train", "val", "test")
ROBOFLOW = "_annotations.coco.json"
_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_COCO_STEM = re.compile(rf"(?:instances_)?(({'|'.join(_WORDS)})[-_]?(?:\d{{4}})?)")


def coco_splits(root: Path) -> Openers:
    """COCO's own layout: annotations/instances_train2017.json with train2017/, images/train2017/ or images/.

    Raises:
        DataError: several files for one split.
    """
    places = [root / "annotations", root]
    files = next((found for place in places if place.is_dir() and (found := _coco_files(place))), {})
    for split, paths in files.items():
        if len(paths) > 1:
            names = ", ".join(printable(path.name) for path in paths)
            raise DataError(
                f"{printable(root)} holds {len(paths)} files for the split {split!r} ({names}): give the path of one, "
                "or move the others away"
            )
    return {split: partial(CocoSource, paths[0], _image_folders(root, paths[0])) for split, paths in files.items()}


def _coco_files(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in files_in(folder, ".json"):
        if match := _COCO_STEM.fullmatch(path.stem):
            files.setdefault(_WORDS[match[2]], []).append(path)
    return files


def _image_folders(root: Path, json_path: Path) -> list[Path]:
    """Where the images of a file may lie: in the folder of its name, or of its name without the year."""
    stem = json_path.stem.removeprefix("instances_")
    match = _COCO_STEM.fullmatch(stem)
    words = [stem, match[2]] if match else [stem]
    parents = (root, root / "images")
    return [*(parent / word for word in words for parent in parents), root / "images", root]


def json_file(path: Path) -> Openers:
    """One COCO file; its images lie in a folder of its name, in images/, or beside it.

    All of it is the test split, a part of it is drawn where `val` is asked for.
    """
    near, above = _image_folders(path.parent, path), _image_folders(path.parent.parent, path)
    folders = [*above[:-2], *near[:-1], above[-2], path.parent]
    return {split: partial(CocoSource, path, folders) for split in ("train", "test")}


def roboflow_splits(root: Path) -> Openers:
    """Roboflow's export: train/, valid/ and test/, each with its images and _annotations.coco.json."""
    found = [(split, path) for word, split in _WORDS.items() if (path := root / word / ROBOFLOW).is_file()]
    return {split: partial(CocoSource, path, path.parent) for split, path in found}


def voc_splits(root: Path) -> Openers:
    """Pascal VOC's layout, in the folder itself or in its only VOC2007/, VOC2012/ ... (below VOCdevkit/).

    Raises:
        DataError: several years.
    """
    if (root / ANNOTATIONS).is_dir():
        return _voc(root)
    years = [path.parent for path in [*root.glob(f"VOC*/{ANNOTATIONS}"), *root.glob(f"VOCdevkit/VOC*/{ANNOTATIONS}")]]
    if len(years) > 1:
        names = ", ".join(sorted(printable(year.relative_to(root)) for year in years))
        raise DataError(f"{printable(root)} holds several years of Pascal VOC ({names}): give the path of one")
    return _voc(years[0]) if years else {}


def _voc(folder: Path) -> Openers:
    lists: dict[str, str | list[str]] = {s: s for s in SPLITS if (folder / LISTS / f"{s}.txt").is_file()}
    if train := training_list(folder):
        lists["train"] = train
    if train == "trainval" and "val" in lists:  # it holds them
        held_out = set(read_list(folder, "val"))
        lists["train"] = [identity for identity in read_list(folder, train) if identity not in held_out]
    if lists:
        return {split: partial(VocSource, folder, name) for split, name in lists.items()}
    ids = [path.stem for path in files_in(folder / ANNOTATIONS, ".xml")]
    return {"train": partial(VocSource, folder, ids)} if ids else {}
