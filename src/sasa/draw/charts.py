"""Figures drawn with matplotlib: curves, and grids of images with classes or boxes."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sasa.draw.annotate import LabelledBoxes, draw_boxes, reduce
from sasa.errors import ArgumentError
from sasa.files import atomic_file, write_errors

RIGHT, WRONG = "#1a7f37", "#cf222e"
MOST_IMAGES = 8  # with boxes


def new_figure(width: float, height: float) -> Any:
    """Make a figure of a size in inches, without pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG atomically; its directory is created."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            figure.savefig(file, dpi=130, format="png")


@dataclass(frozen=True)
class Panel:
    """Axes with curves over epochs.

    Args:
        title: with the unit.
        curves: (epoch, value) points by label; a curve without points is left out.
        logarithmic: whether the vertical axis is logarithmic.
    """

    title: str
    curves: dict[str, list[tuple[float, float]]]
    logarithmic: bool = False


def points(rows: Iterable[dict[str, Any]], column: str, factor: float = 1) -> list[tuple[float, float]]:
    """Take the points of a curve from rows with an "epoch", times a factor; rows without a value are left out."""
    return [(row["epoch"], factor * row[column]) for row in rows if row.get(column) is not None]


def draw_curves(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels side by side, as a PNG."""
    figure = new_figure(4.5 * len(panels), 3.6)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, curve in panel.curves.items():
            if curve:
                axes.plot(*zip(*curve, strict=True), ".-", label=label)
        axes.set(title=panel.title, xlabel="epoch")
        if panel.logarithmic and any(value > 0 for curve in panel.curves.values() for _, value in curve):
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, path)


def draw_predictions(
    images: Sequence[Any], guesses: Sequence[str], shares: Sequence[float], truths: Sequence[str] | None, path: Path
) -> None:
    """Draw a grid of images with the predicted classes: green if right, red with the true class if wrong.

    Args:
        images: PIL images.
        guesses: the predicted class of each.
        shares: the softmax of each prediction, 0 to 1.
        truths: the true class of each, or None if unknown.
        path: the PNG.
    """
    columns = min(8, max(1, len(images)))
    rows = -(-len(images) // columns)
    figure = new_figure(1.5 * columns, 1.75 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for index, (axes, image, guess, share) in enumerate(zip(grid, images, guesses, shares, strict=False)):
        axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
        truth = truths[index] if truths else guess
        title = f"{guess} {share:.0%}" if guess == truth else f"{guess} {share:.0%}, is {truth}"
        colour = "black" if truths is None else RIGHT if guess == truth else WRONG
        axes.set_title(title.replace("$", r"\$"), color=colour, fontsize=9)  # matplotlib reads $ as a formula
    save_figure(figure, path)


def draw_detections_grid(
    images: Sequence[Any],
    found: Sequence[LabelledBoxes],
    truth: Sequence[LabelledBoxes],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw a row for each of the first eight images: with its true boxes on the left, with the found ones on the right.

    Args:
        images: PIL images, at least one.
        found: predicted boxes of each.
        truth: true boxes of each.
        classes: all class names, in the order that decides their colours.
        path: the PNG.
    """
    if not images:
        raise ArgumentError("draw_detections_grid needs at least 1 image, got 0")
    rows = list(zip(images, truth, found, strict=True))[:MOST_IMAGES]
    heights = [min(max(image.height / image.width, 0.1), 3) for image, _, _ in rows]  # in widths
    figure = new_figure(10, 0.4 + 5 * sum(heights))
    grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    for line, (image, *sides) in zip(grid, rows, strict=True):
        for axes, boxes in zip(line, sides, strict=True):
            axes.imshow(_with_boxes(image, boxes, classes))
            axes.axis("off")
    for axes, heading in zip(grid[0], ("truth", "found"), strict=True):
        axes.set_title(heading)
    save_figure(figure, path)


def _with_boxes(image: Any, found: LabelledBoxes, classes: Sequence[str]) -> Any:
    """Draw boxes on an image that is magnified first if it is small, because letters have a minimum size."""
    shown = reduce(image.convert("RGB"))
    across, down = shown.width / image.width, shown.height / image.height
    boxes = found.boxes * found.boxes.new_tensor([across, down, across, down])
    return draw_boxes(shown, dataclasses.replace(found, boxes=boxes), classes)
