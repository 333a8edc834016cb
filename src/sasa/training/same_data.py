"""The identity of a run's data set: a run may resume if its data moved, but not on other data.

A checkpoint records the classes, the numbers of images, and a fingerprint of names, labels and boxes. File names count
below the directory of the data set, so the fingerprint stays the same wherever that directory is.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from sasa.errors import DataError
from sasa.files import expand_user
from sasa.training.task import Task

MOST_HASHED = 10_000  # images of a split, evenly spaced: the description of a million would take seconds to make


def record(task: Task) -> dict[str, Any]:
    """Return what a checkpoint records of the task's data: plain values; the fingerprint is a SHA-256."""
    digest = hashlib.sha256()
    for images in (task.train, task.held_out):
        for index in np.linspace(0, len(images) - 1, min(len(images), MOST_HASHED)).astype(int).tolist():
            digest.update(task.describe(images, index).encode(errors="surrogateescape") + b"\0")
    return {
        "classes": list(task.train.classes),
        "training_images": len(task.train),
        "held_out_images": len(task.held_out),
        "fingerprint": digest.hexdigest(),
    }


def recorded_in(run: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Return the record in a checkpoint; for a run of an earlier version, the information in its other files."""
    if "data" in state:
        return state["data"]
    known: dict[str, Any] = {}
    best, summary = read_json(run / "best" / "config.json"), read_json(run / "summary.json")
    if labels := best.get("metadata", {}).get("labels"):
        known["classes"] = labels
    for name, key in (("training_images", "training_pictures"), ("held_out_images", "held_out_pictures")):
        if key in summary:
            known[name] = summary[key]
    return known


def check_same_data(source: str, recorded: dict[str, Any], found: dict[str, Any]) -> None:
    """Compare the data that a resumed run finds with the data that it was trained on.

    Raises:
        DataError: they differ; the message quotes both values.
    """
    for key, words in (
        ("classes", "the classes"),
        ("training_images", "so many training images:"),
        ("held_out_images", "so many held-out images:"),
    ):
        if key in recorded and recorded[key] != found[key]:
            raise DataError(
                f"{source} is not the data that the run was trained on: it has {words} {shown(found[key])}, the run "
                f"had {shown(recorded[key])}"
            )
    if recorded.get("fingerprint", found["fingerprint"]) != found["fingerprint"]:
        raise DataError(
            f"{source} is not the data that the run was trained on: it has the same classes and as many images, but "
            "other file names, labels or boxes"
        )


def shown(value: Any) -> str:
    """Return a number, or the first names of a list and how many there are."""
    if not isinstance(value, list):
        return str(value)
    more = f", ... ({len(value)})" if len(value) > 5 else ""
    return ", ".join(map(str, value[:5])) + more


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run; empty where it is missing or damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def directory_of(source: str) -> str:
    """Return the directory that the files of a data set are in, with a separator at its end.

    `source` is that directory, a file in it, or a pattern of files in it.
    """
    root = expand_user(source)
    return f"{root if root.is_dir() else root.parent}{os.sep}"
