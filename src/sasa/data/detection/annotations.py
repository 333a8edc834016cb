"""Boxes with labels: as read from annotation files, and as selected for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sasa.data.text import printable
from sasa.errors import DataError

# Tolerance in pixels for boxes beyond their image: tools round, and some count from 1.
OVERHANG = 1.0
MOST_FRACTION = 1.5  # pixels: boxes whose numbers are all smaller are fractions
FEWEST_CORNERS = 4  # boxes: fewer do not show whether they are corners
# The part of a box's size between its left top corner and the first point in the file.
_FIRST_POINT = {"left, top, width, height": 0, "centre x, centre y, width, height": 0.5}
# Position of a box, in messages.
PLACE = "its image of {size} pixels (x {x1:g} to {x2:g}, y {y1:g} to {y2:g})"


@dataclass(frozen=True)
class Problem:
    """A part of the annotations that was left out or changed."""

    file: str
    image: str  # path below the directory of the images; "" where the problem is not of one image
    id: str | int | None  # of the annotation; in VOC and YOLO its place in the file, from 1
    what: str  # the rest of the sentence, after the place

    def __str__(self) -> str:
        image = printable(self.image)
        subject = image if self.id is None else f"annotation {printable(self.id)}{f' of {image}' if image else ''}"
        return f"{self.file}: {subject} {self.what}" if subject else f"{self.file}: {self.what}"


@dataclass
class Targets:
    """The objects of one image."""

    boxes: Tensor  # (N, 4), float32: left, top, right, bottom in pixels, the image being upright
    labels: Tensor  # (N,), int64: indices into the source's `classes`
    crowd: Tensor  # (N,), bool: regions that are neither trained on nor counted as background

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> "Targets":
        """Select objects by a mask or by their places."""
        return Targets(self.boxes[rows], self.labels[rows], self.crowd[rows])

    def pin_memory(self) -> "Targets":
        """Copy to pinned memory, from which a GPU copies asynchronously."""
        return Targets(self.boxes.pin_memory(), self.labels.pin_memory(), self.crowd.pin_memory())

    def to(self, device: torch.device) -> "Targets":
        """Move to the device."""
        return Targets(*(tensor.to(device, non_blocking=True) for tensor in (self.boxes, self.labels, self.crowd)))

    # A tensor is sent from a worker to the training process as an open file: three for each image of a batch would
    # soon be more than a process may have. Arrays are sent as bytes.
    def __getstate__(self) -> dict[str, Any]:
        return {name: tensor.cpu().numpy() for name, tensor in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: torch.from_numpy(array) for name, array in state.items()})


class TargetTable:
    """The targets of `count` images: boxes (M, 4), labels (M,), crowd (M,), and the image of each object (M,)."""

    def __init__(
        self, images: np.ndarray, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, count: int
    ) -> None:
        order = np.argsort(images, kind="stable")
        self._boxes, self._labels, self._crowd = boxes[order], labels[order], crowd[order]
        self._firsts = np.searchsorted(images[order], np.arange(count + 1))

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, image: int) -> Targets:
        rows = slice(*self._firsts[[image, image + 1]])
        boxes = torch.tensor(self._boxes[rows], dtype=torch.float32)  # copies: the table stays as it is
        labels = torch.tensor(self._labels[rows], dtype=torch.int64)
        return Targets(boxes, labels, torch.tensor(self._crowd[rows], dtype=torch.bool))

    def of_images(self, images: Sequence[int]) -> "TargetTable":
        """The targets of some images, in the given order."""
        rows = [np.arange(*self._firsts[[image, image + 1]]) for image in images]
        owners, chosen = np.repeat(np.arange(len(rows)), list(map(len, rows))), np.concatenate(rows)
        return TargetTable(owners, self._boxes[chosen], self._labels[chosen], self._crowd[chosen], len(rows))

    def counts(self, classes: int) -> list[int]:
        """Count the boxes of each class, without crowds."""
        return np.bincount(self._labels[~self._crowd], minlength=classes).tolist()


class Annotated(NamedTuple):
    """An object as it is in a file."""

    image: int  # place of the image in the source
    label: int
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels; finite
    crowd: bool
    id: int | str | None  # for a `Problem`
    file: str


def clean(
    objects: list[Annotated],
    unusable: list[Problem],
    sizes: np.ndarray,
    names: list[str],
    title: str,
    meaning: str = "left, top, right, bottom",
) -> tuple[TargetTable, list[Problem]]:
    """Select the boxes that can be trained on, clipped to their images, and report all that was left out or clipped.

    Boxes without area, boxes outside their image and repeated boxes are left out.

    Args:
        objects: all boxes with four finite numbers.
        unusable: problems of the others.
        sizes: (N, 2): height and width of the images.
        names: of the N images.
        title: of the set.
        meaning: of the four numbers of a box in the format, a key of `_FIRST_POINT`, or the default.

    Raises:
        DataError: no box is left, or there was none; or the numbers have another meaning in this file.
    """
    images = np.array([each.image for each in objects], np.int64)
    labels = np.array([each.label for each in objects], np.int64)
    boxes = np.array([each.box for each in objects], np.float64).reshape(-1, 4)
    crowd = np.array([each.crowd for each in objects], bool)
    right_bottom = sizes[images][:, [1, 0]]
    _check_meaning(title, boxes, right_bottom, meaning)
    clipped = np.clip(boxes, 0, np.concatenate([right_bottom, right_bottom], 1)).astype(np.float32)
    empty = _without_area(boxes)
    outside = ~empty & _without_area(clipped)
    repeated = _repeated(np.column_stack([images, labels, crowd, boxes])) & ~empty & ~outside
    keep = ~(empty | outside | repeated)
    beyond = keep & (np.abs(boxes - clipped).max(1, initial=0) > OVERHANG)

    def problems(rows: np.ndarray, what: str) -> list[Problem]:
        return [_problem(objects[row], sizes, names, what) for row in np.flatnonzero(rows).tolist()]

    found = [*unusable, *problems(empty, "has no area (width {width:g}, height {height:g}) and is left out")]
    found += problems(outside, f"lies outside {PLACE} and is left out")
    found += problems(beyond, f"reaches beyond {PLACE} and is clipped to it")
    found += problems(repeated, "has the same class and box as another of its image and is left out")
    if not keep.any():
        total, without_area = len(objects) + len(unusable), int(empty.sum())
        why = "none has an area" if without_area == total else "none can be used"
        first = f"; {found[0]}" if found else ""
        raise DataError(f"{title} has {total} boxes and {why}{first}" if total else f"{title} has no boxes")
    return TargetTable(images[keep], clipped[keep], labels[keep], crowd[keep], len(sizes)), found


def _check_meaning(title: str, boxes: np.ndarray, right_bottom: np.ndarray, meaning: str) -> None:
    """Refuse boxes in fractions of the image, and corners where the format has a point and a size.

    Boxes are taken for corners if half of them reach beyond their images, and all would lie inside as corners.
    """
    if not len(boxes):
        return
    if boxes.max() > 0 and np.abs(boxes).max() <= MOST_FRACTION and right_bottom.min() > 2 * MOST_FRACTION:
        raise DataError(f"{title} has boxes in fractions of the images, up to {boxes.max():g}: expected pixels")
    if "right" in meaning or len(boxes) < FEWEST_CORNERS or not np.isfinite(boxes).all():
        return
    sides = boxes[:, 2:] - boxes[:, :2]
    first = boxes[:, :2] + _FIRST_POINT[meaning] * sides  # the four numbers in the file are `first` and `sides`
    inside = (first < sides) & (sides <= right_bottom + OVERHANG)
    beyond = ((boxes[:, :2] < -OVERHANG) | (boxes[:, 2:] > right_bottom + OVERHANG)).any(1).mean()
    if inside.all() and beyond >= 0.5:
        raise DataError(
            f"{title} has boxes of which {beyond:.0%} reach beyond their images, and which would all lie "
            f"inside if they were left, top, right, bottom: expected {meaning}"
        )


def _without_area(boxes: np.ndarray) -> np.ndarray:
    """Mask the boxes whose area is zero in the precision of training."""
    with np.errstate(over="ignore"):
        x1, y1, x2, y2 = boxes.astype(np.float32).T
    return ~((x2 > x1) & (y2 > y1))


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Mask the rows that are equal to an earlier row."""
    order = np.lexsort(rows.T)  # stable: of equal rows the first comes first
    repeated = np.zeros(len(rows), bool)
    repeated[order[1:]] = (rows[order[1:]] == rows[order[:-1]]).all(1)
    return repeated


def _problem(annotated: Annotated, sizes: np.ndarray, names: list[str], what: str) -> Problem:
    image, (x1, y1, x2, y2) = annotated.image, annotated.box
    size = f"{sizes[image][0]} x {sizes[image][1]}"
    text = what.format(width=x2 - x1, height=y2 - y1, size=size, x1=x1, y1=y1, x2=x2, y2=y2)
    return Problem(annotated.file, names[image], annotated.id, text)
