"""Images with the boxes of detected things, beside the true ones, and the learning curves of detection.

torchvision.utils.draw_bounding_boxes is not used: its letters have one size without a font file, and labels of boxes at
the border leave the image.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sasa.draw.annotate import fit, font_of, reduce
from sasa.draw.charts import new_figure, save_figure
from sasa.errors import ArgumentError

# Okabe and Ito's, which people with any of the usual colour vision tell apart; their black is left out.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
SHADES = (0.0, 0.45, -0.4)  # of these colours from the eighth class on: towards white, towards black
MOST_IMAGES = 8


@dataclass(frozen=True)
class Found:
    """The boxes of one image.

    Args:
        boxes: (N, 4): left, top, right, bottom in pixels of the image.
        labels: the name of the class of each.
        scores: 0 to 1 of each, or None where the boxes are the truth.
    """

    boxes: Tensor
    labels: list[str]
    scores: list[float] | None = None


def draw_boxes(
    image: Any, boxes: Tensor, labels: Sequence[str], scores: Sequence[float] | None, classes: Sequence[str]
) -> Any:
    """A new RGB image of the same size: the boxes with their labels, the best scored on top.

    A box is clipped to the image; one that lies outside, or is not of finite numbers, is not drawn. Labels are
    shortened to the room there is, and left out where there is none.

    Args:
        image: a PIL image of any size.
        boxes: (N, 4): left, top, right, bottom in pixels.
        labels: N names of classes.
        scores: N numbers 0 to 1, written in percent, or None.
        classes: all names: the place of a name in it decides on its colour.

    Raises:
        ArgumentError: the numbers of boxes, labels and scores differ, or a label is none of the classes.
    """
    from PIL import ImageDraw

    _check(boxes, labels, scores, classes)
    drawn = image.convert("RGB")  # a copy, also where it is RGB
    pen, line = ImageDraw.Draw(drawn), max(1, round(min(drawn.size) / 240))
    font = font_of(max(10, round(min(drawn.size) / 32)))
    order = sorted(range(len(labels)), key=lambda place: scores[place]) if scores is not None else range(len(labels))
    corners = [_clip(box, drawn.size) for box in boxes.tolist()]
    shown = [(place, corner) for place in order if (corner := corners[place]) is not None]
    for place, corner in shown:
        thin = (min(corner[2] - corner[0], corner[3] - corner[1]) + 2) // 2  # PIL draws thicker lines beyond the box
        pen.rectangle(corner, outline=colour_of(labels[place], classes), width=min(line, thin))
    for place, corner in shown:  # after all lines, which would cross them
        score = "" if scores is None else f" {scores[place]:.0%}"
        _draw_label(pen, font, drawn.size, corner, labels[place], score, colour_of(labels[place], classes))
    return drawn


def colour_of(label: str, classes: Sequence[str]) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a class: 21 of them, then they come again."""
    from PIL import ImageColor

    turn, place = divmod(classes.index(label), len(COLOURS))
    red, green, blue = ImageColor.getrgb(COLOURS[place])[:3]
    shade = SHADES[turn % len(SHADES)]
    goal = 255 if shade > 0 else 0
    red, green, blue = (round(part + abs(shade) * (goal - part)) for part in (red, green, blue))
    return red, green, blue


def _check(boxes: Tensor, labels: Sequence[str], scores: Sequence[float] | None, classes: Sequence[str]) -> None:
    if tuple(boxes.shape) != (len(labels), 4):
        raise ArgumentError(f"boxes are {tuple(boxes.shape)}, but there are {len(labels)} labels")
    if scores is not None and len(scores) != len(labels):
        raise ArgumentError(f"there are {len(scores)} scores, but {len(labels)} labels")
    for label in labels:
        if label not in classes:
            raise ArgumentError(f"the label {label!r} is none of the {len(classes)} classes")


def _clip(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The outermost pixels of the box in the image, right and bottom included; None for a box with none."""
    if not all(map(math.isfinite, box)):
        return None
    across, down = _span(box[0], box[2], size[0]), _span(box[1], box[3], size[1])
    return (across[0], down[0], across[1], down[1]) if across and down else None


def _span(low: float, high: float, size: int) -> tuple[int, int] | None:
    """First and last pixel from `low` to `high` of `size` pixels: at least one, for a box without an area is a line."""
    if low > high or low >= size or (low < 0 and high <= 0):
        return None
    first = min(max(round(low), 0), size - 1)
    return first, min(max(round(high) - 1, first), size - 1)


def _draw_label(
    pen: Any,
    font: Any,
    size: tuple[int, int],
    corner: tuple[int, int, int, int],
    label: str,
    score: str,
    colour: tuple[int, int, int],
) -> None:
    """On a strip of the box's colour: above the box where the image has room, else along its upper edge inside."""
    margin = max(1, font.size // 6)
    height = font.size + 2 * margin
    room = min(size[0], 16 * font.size) - 2 * margin
    text = fit(label, room - pen.textlength(score, font=font), pen, font) + score
    width = round(pen.textlength(text, font=font)) + 2 * margin
    if width > size[0] or height > size[1]:
        return
    left = min(corner[0], size[0] - width)
    top = corner[1] - height if corner[1] >= height else min(corner[1], size[1] - height)
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    luminance = (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000
    ink = "black" if luminance > 110 else "white"
    pen.text((left + margin, top + height / 2), text, fill=ink, font=font, anchor="lm")


def draw_detections_grid(
    images: Sequence[Any], found: Sequence[Found], truth: Sequence[Found], classes: Sequence[str], path: Path
) -> None:
    """The first eight images below each other, each twice: left with the true boxes, right with those found.

    Args:
        images: PIL images, at least one.
        found: what the network says of each.
        truth: what it should say of each.
        classes: all names of classes, in the order that decides on their colours.
        path: the PNG.
    """
    if not images:
        raise ArgumentError("there are 0 images, it takes at least 1")
    rows = list(zip(images, truth, found, strict=True))[:MOST_IMAGES]
    heights = [min(max(image.height / image.width, 0.1), 3) for image, _, _ in rows]  # in widths
    figure = new_figure(10, 0.4 + 5 * sum(heights))
    grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    for line, (image, *sides) in zip(grid, rows, strict=True):
        for axes, side in zip(line, sides, strict=True):
            axes.imshow(_magnified(image, side, classes))
            axes.axis("off")
    for axes, heading in zip(grid[0], ("truth", "found"), strict=True):
        axes.set_title(heading)
    save_figure(figure, path)


def _magnified(image: Any, side: Found, classes: Sequence[str]) -> Any:
    """The image with its boxes; a small one is magnified first, for letters have a least size."""
    shown = reduce(image.convert("RGB"))
    across, down = shown.width / image.width, shown.height / image.height
    boxes = side.boxes * side.boxes.new_tensor([across, down, across, down])
    return draw_boxes(shown, boxes, side.labels, side.scores, classes)


def draw_detection_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss, with its parts where they are there, and average precision of the held-out images over epochs.

    Args:
        rows: as metrics.csv has them; an epoch without one of the figures is left out of that curve.
        path: the PNG.
    """
    figure = new_figure(9, 3.6)
    loss, precision = figure.subplots(1, 2)
    for key, label in (("train_loss", "sum"), ("train_classification", "classification"), ("train_box", "boxes")):
        _plot(loss, rows, key, label, 1)
    for key, label in (("held_out_map", "overlap 0.5 to 0.95"), ("held_out_map50", "overlap 0.5")):
        _plot(precision, rows, key, label, 100)
    loss.set(title="training loss", xlabel="epoch")
    if any((row.get("train_loss") or 0) > 0 for row in rows):  # matplotlib warns where a logarithm has nothing to show
        loss.set_yscale("log")
    precision.set(title="average precision, held out, %", xlabel="epoch")
    for axes in (loss, precision):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, path)


def _plot(axes: Any, rows: Iterable[dict[str, Any]], key: str, label: str, factor: float) -> None:
    points = [(row["epoch"], factor * row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), ".-", label=label)
