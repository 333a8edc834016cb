"""Sentences about folders that hold boxes in a format that is not read here, or none."""

import json
from itertools import islice
from pathlib import Path

from sasa.data.classification.names import printable
from sasa.data.classification.splits import files_in, sub_folders
from sasa.data.images import is_image

# Bytes of a JSON file that are looked at: LabelMe's files hold the image itself, so its keys may be far in.
MOST_JSON = 16 * 2**20


def what_lies_in(root: Path) -> str:
    """What a folder that is no COCO and no Pascal VOC holds instead, for the end of a sentence."""
    looks = (_nothing, _yolo, _csv, _json, _xml, _class_folders, _images)
    return next((found for look in looks if (found := look(root))), "nothing that looks like boxes")


def _nothing(root: Path) -> str:
    return "" if any(root.iterdir()) else "nothing, it is empty"


def _yolo(root: Path) -> str:
    found = next((path for pattern in ("labels", "*/labels") for path in root.glob(f"{pattern}/**/*.txt")), None)
    if found:
        return f"labels in YOLO's format ({printable(found.relative_to(root))})"
    if (root / "data.yaml").is_file():
        return "a data.yaml, as YOLO's sets have"
    return ""


def _csv(root: Path) -> str:
    return next((f"a CSV file ({printable(p.relative_to(root))})" for p in _here_and_below(root, ".csv")), "")


def _json(root: Path) -> str:
    paths = _here_and_below(root, ".json")
    if not paths:
        return ""
    name = printable(paths[0].relative_to(root))
    if is_label_me(paths[0]):
        return f"a JSON file for each image, as LabelMe writes them ({name})"
    return f"a JSON file whose name says no split ({name}): give the path of the file itself"


def is_label_me(path: Path) -> bool:
    """Whether a JSON file is one of LabelMe's."""
    try:
        document = json.loads(path.read_bytes()) if path.stat().st_size <= MOST_JSON else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "shapes" in document


def _xml(root: Path) -> str:
    found = _here_and_below(root, ".xml")
    name = printable(found[0].relative_to(root)) if found else ""
    return f"XML files that are not in a folder Annotations/ ({name})" if found else ""


def _class_folders(root: Path) -> str:
    folder = next((folder for folder in sorted(sub_folders(root)) if _has_image(folder)), None)
    return f"folders of images without boxes ({printable(folder.name)}/), as for classification" if folder else ""


def _images(root: Path) -> str:
    return "images without boxes" if _has_image(root) else ""


def _has_image(folder: Path) -> bool:
    """Here, or in a folder below."""
    entries = [*islice(folder.iterdir(), 100), *islice(folder.glob("*/*"), 100)]
    return any(is_image(path) for path in entries)


def _here_and_below(root: Path, suffix: str) -> list[Path]:
    folders = (root, *sorted(sub_folders(root)))
    return next((found for folder in folders if (found := files_in(folder, suffix))), [])
