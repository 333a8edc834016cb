"""Images drawn with matplotlib: learning curves, a grid of predictions, ratios; and what all figures share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasa.errors import SasaError
from sasa.files import atomic_file

RIGHT, WRONG = "#1a7f37", "#cf222e"


def new_figure(width: float, height: float) -> Any:
    """A figure without pyplot, whose global state and windows a library must not touch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG as one step; the folder is made if it is not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            figure.savefig(file, dpi=130, format="png")
    except OSError as error:
        raise SasaError(f"cannot write {path}: {error.strerror or error}") from error


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss and accuracy over epochs, of training and held-out images.

    Args:
        rows: as metrics.csv has them.
        path: the PNG.
    """
    figure = new_figure(9, 3.6)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for prefix, label in (("train", "training"), ("held_out", "held out")):
        loss.plot(epochs, [row[f"{prefix}_loss"] for row in rows], label=label)
        accuracy.plot(epochs, [100 * row[f"{prefix}_top1"] for row in rows], label=label)
    loss.set(title="cross-entropy", xlabel="epoch", yscale="log")
    accuracy.set(title="top-1 accuracy, %", xlabel="epoch")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def draw_predictions(
    images: Sequence[Any], guesses: Sequence[str], shares: Sequence[float], truths: Sequence[str] | None, path: Path
) -> None:
    """A grid of images with what the network says: green where it is right, red with the truth where not.

    Args:
        images: PIL images.
        guesses: a class name each.
        shares: the softmax of the guess, 0 to 1.
        truths: a class name each, or None where nobody knows.
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
        axes.set_title(title.replace("$", r"\$"), color=colour, fontsize=9)  # no formulas in names of classes
    save_figure(figure, path)


def draw_ratios(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Bars of the acceptance table: our time or memory as a share of the baseline's, with goal and must.

    Args:
        rows: as the JSON of `sasa bench` has them; those that are no share, or were not measured, are left out.
        path: the PNG.
        title: of the figure: what was measured where.
    """
    shown = [row for row in rows if row["kind"] == "share" and row["value"] is not None]
    figure = new_figure(9, 1.4 + 0.32 * len(shown))
    axes = figure.subplots()
    for place, row in enumerate(reversed(shown)):
        limit = row["goal"] if row["must"] is None else row["must"]
        colour = WRONG if limit is not None and row["value"] > limit else RIGHT
        whiskers = [[max(0.0, row["value"] - row["lower"])], [max(0.0, row["upper"] - row["value"])]]
        axes.barh(place, row["value"], color=colour, alpha=0.75, xerr=whiskers, error_kw={"linewidth": 1})
        for name, style in (("goal", "-"), ("must", ":")):
            if row[name] is not None:
                axes.plot([row[name]] * 2, [place - 0.45, place + 0.45], style, color="black", linewidth=1.5)
        axes.annotate(f" {row['value']:.2f}", (max(row["value"], row["upper"]), place), va="center", fontsize=8)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [row["title"] for row in reversed(shown)], fontsize=8)
    axes.set_xlim(0, 1.15 * max([1.2, *(row["upper"] for row in shown)]))
    label = "ours / baseline, less is better; line: goal, dots: must, whiskers: quartiles of rounds"
    axes.set_xlabel(label, fontsize=8)
    figure.suptitle(title, fontsize=8)  # across the figure: the axes are narrow beside their labels
    save_figure(figure, path)
