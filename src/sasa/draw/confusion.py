"""Draw a confusion matrix."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sasa.draw.charts import new_figure, save_figure
from sasa.metrics.confusion import MOST_DENSE, Pairs, check_labels, pairs

MOST_NAMED = 30  # classes whose names fit beside the axes
MOST_COUNTED = 20  # classes whose counts fit into the cells
LONGEST_NAME = 24  # letters


def draw_confusion(confusion: Tensor, labels: list[str], path: Path) -> None:
    """Draw a (C, C) matrix of counts as a PNG, coloured by the share of the true class; rows without images are gray.

    Up to 30 classes are named, and up to 20 have counts in the cells; of more classes about ten are numbered. Of more
    than 1,000 classes neighbours share a cell, because a cell for each would be smaller than a pixel.
    """
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
    style = {"cmap": _colours(), "norm": _norm(), "interpolation": "nearest", "extent": (-0.5, end, end, -0.5)}
    image = axes.imshow(np.ma.masked_invalid(shares), **style)
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


def _colours():
    from matplotlib import colormaps

    return colormaps["Blues"].with_extremes(bad="#d0d0d0")


def _norm():
    """Return a square-root colour scale, on which a share of 1 % is visible."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, 0, 1)


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
