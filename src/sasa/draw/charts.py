"""Figures drawn with matplotlib: curves, grids of images with classes or boxes, confusion matrices."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sasa.draw.annotate import LabelledBoxes, draw_boxes, reduce
from sasa.errors import ArgumentError
from sasa.files import atomic_file, write_errors
from sasa.metrics.confusion import MOST_DENSE, Pairs, check_labels, pairs

RIGHT, WRONG = "#1a7f37", "#cf222e"
MOST_IMAGES = 8  # with boxes
# Of a confusion matrix: classes whose names fit beside the axes, classes whose counts fit into the cells, letters.
MOST_NAMED, MOST_COUNTED, LONGEST_NAME = 30, 20, 24


def new_figure(width: float, height: float) -> Any:
    """Make a figure of a size in inches, without pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure atomically, in the format of the name's ending (PNG without one); its directory is created."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            figure.savefig(file, dpi=130, format=path.suffix[1:].lower() or "png")


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


def draw_confusion(confusion: Tensor, labels: list[str], path: Path) -> None:
    """Draw a (C, C) matrix of counts as a PNG, coloured by the share of the true class; rows without images are gray.

    Up to 30 classes are named, and up to 20 have counts in the cells; of more classes about ten are numbered. Of more
    than 1,000 classes neighbours share a cell, because a cell for each would be smaller than a pixel.
    """
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    check_labels(confusion, labels)
    found, classes = pairs(confusion), len(labels)
    shared = -(-classes // MOST_DENSE)  # classes of a cell, in each direction
    counts = _grid(found, classes, shared)
    totals = counts.sum(1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    side = 2.6 + (0.42 * classes if classes <= MOST_COUNTED else 0.26 * min(classes, MOST_NAMED))
    margin = 0.07 * max(map(len, _names(labels))) if classes <= MOST_NAMED else 0.4
    figure = new_figure(side + margin + 0.9, side + margin * 0.8)
    axes = figure.subplots()
    end = shared * len(counts) - 0.5
    image = axes.imshow(
        np.ma.masked_invalid(shares),
        cmap=colormaps["Blues"].with_extremes(bad="#d0d0d0"),
        norm=PowerNorm(0.5, 0, 1),  # square roots, so that a share of 1 % is visible
        interpolation="nearest",
        extent=(-0.5, end, end, -0.5),
    )
    bar = figure.colorbar(image, ax=axes, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1], shrink=0.8, pad=0.02)
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"], fontsize=8)
    bar.set_label("share of the true class", fontsize=8)
    _ticks(axes, labels, side / classes)
    if classes <= MOST_COUNTED:
        _write_counts(axes, counts, shares)
    right, images = int(found.images[found.truth == found.answer].sum()), int(found.images.sum())
    note = f" (a cell is {shared} x {shared} classes)" if shared > 1 else ""
    axes.set(xlabel=f"predicted class{note}", ylabel="true class")
    axes.set_title(f"{right:,} of {images:,} images right ({right / max(1, images):.1%})", fontsize=10)
    save_figure(figure, path)


def _grid(found: Pairs, classes: int, shared: int) -> np.ndarray:
    """Sum the images of each cell: (N, N) for N = classes / shared, rounded up."""
    side = -(-classes // shared)
    cells = (found.truth // shared) * side + found.answer // shared
    counts = torch.zeros(side * side, dtype=torch.int64).index_add_(0, cells, found.images)
    return counts.view(side, side).numpy()


def _names(labels: list[str]) -> list[str]:
    short = [label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…" for label in labels]
    return [label.replace("$", r"\$") for label in short]  # matplotlib reads $ as a formula


def _ticks(axes, labels: list[str], cell: float) -> None:
    """Label the axes with names or numbers of the classes, turned below if wider than a cell (in inches)."""
    classes = len(labels)
    if classes <= MOST_NAMED:
        places, names = list(range(classes)), _names(labels)
    else:
        step = next(step for step in (5, 10, 20, 50, 100, 200, 500, 1000, classes) if classes / step <= 12)
        places = list(range(0, classes, step))
        names = [str(place) for place in places]
    turned = 90 if classes <= MOST_NAMED and 0.08 * max(map(len, names)) > cell else 0
    axes.set_xticks(places, names, rotation=turned, fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    if classes <= MOST_NAMED:  # lines between the cells
        axes.set_xticks(np.arange(-0.5, classes), minor=True)
        axes.set_yticks(np.arange(-0.5, classes), minor=True)
        axes.grid(which="minor", color="#e4e4e4", linewidth=0.6)
        axes.tick_params(which="minor", length=0)


def _write_counts(axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.35 else "black"
            size = 8 if count < 1000 else 6
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=size, color=colour)
