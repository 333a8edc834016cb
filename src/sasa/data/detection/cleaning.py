"""Boxes as people drew them, and those of them that can be learned."""

from dataclasses import dataclass, field

import numpy as np

from sasa.data.detection.annotations import Problem, TargetTable
from sasa.errors import DataError

# Pixels that a box may reach beyond its image before that is a problem: tools round, and some count from 1.
OVERHANG = 1.0
# Where a box lies, in the sentences about it.
PLACE = "its image of {size} pixels (x {x1:g} to {x2:g}, y {y1:g} to {y2:g})"


@dataclass
class Objects:
    """The boxes of a set, one entry in each list for each of them.

    Args:
        images: place of the image in the source.
        labels: class, from 0.
        boxes: left, top, right, bottom in pixels; finite.
        crowd: see `Targets`.
        ids: what to call them in a `Problem`.
        files: the annotation files they are from.
    """

    images: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    ids: list[int | str | None] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(
        self,
        image: int,
        label: int,
        box: tuple[float, float, float, float],
        crowd: bool,
        id: int | str | None,
        file: str,
    ) -> None:
        """One more."""
        self.images.append(image)
        self.labels.append(label)
        self.boxes.append(box)
        self.crowd.append(crowd)
        self.ids.append(id)
        self.files.append(file)

    def __len__(self) -> int:
        return len(self.labels)


def clean(
    objects: Objects, unusable: list[Problem], sizes: np.ndarray, names: list[str], title: str
) -> tuple[TargetTable, list[Problem]]:
    """The boxes that can be learned, clipped to their images; and all that was left out or clipped.

    Left out are boxes without area, outside their image, and those that are there already.

    Args:
        objects: all boxes whose numbers are right.
        unusable: what was wrong with the others.
        sizes: (N, 2): height and width of the images.
        names: of the N images, for the problems.
        title: of the set, for the error.

    Raises:
        DataError: no box is left, or there was none.
    """
    images, labels = np.array(objects.images, np.int64), np.array(objects.labels, np.int64)
    boxes, crowd = np.array(objects.boxes, np.float64).reshape(-1, 4), np.array(objects.crowd, bool)
    right_bottom = sizes[images][:, [1, 0]]
    clipped = np.clip(boxes, 0, np.concatenate([right_bottom, right_bottom], 1)).astype(np.float32)
    empty = _without_area(boxes)
    outside = ~empty & _without_area(clipped)
    repeated = _repeated(np.column_stack([images, labels, crowd, boxes])) & ~empty & ~outside
    keep = ~(empty | outside | repeated)
    beyond = keep & (np.abs(boxes - clipped).max(1, initial=0) > OVERHANG)

    def problems(rows: np.ndarray, what: str) -> list[Problem]:
        return [_problem(objects, row, sizes, names, what) for row in np.flatnonzero(rows).tolist()]

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


def _without_area(boxes: np.ndarray) -> np.ndarray:
    """Whether boxes have none in the precision in which they are learned."""
    with np.errstate(over="ignore"):
        x1, y1, x2, y2 = boxes.astype(np.float32).T
    return ~((x2 > x1) & (y2 > y1))


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Whether a row is equal to one before it."""
    order = np.lexsort(rows.T)  # stable: of equal rows the first comes first
    repeated = np.zeros(len(rows), bool)
    repeated[order[1:]] = (rows[order[1:]] == rows[order[:-1]]).all(1)
    return repeated


def _problem(objects: Objects, row: int, sizes: np.ndarray, names: list[str], what: str) -> Problem:
    image, (x1, y1, x2, y2) = objects.images[row], objects.boxes[row]
    size = f"{sizes[image][0]} x {sizes[image][1]}"
    text = what.format(width=x2 - x1, height=y2 - y1, size=size, x1=x1, y1=y1, x2=x2, y2=y2)
    return Problem(objects.files[row], names[image], objects.ids[row], text)
