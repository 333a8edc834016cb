"""Draw classes or boxes with labels onto PIL images.

torchvision.utils.draw_bounding_boxes is not used: it writes labels inside the boxes, where they cover small objects,
and cuts them off at the border of the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sasa.errors import ArgumentError

LARGEST = 1024  # pixels of the longer side of an image
NARROWEST = 240  # pixels of the width of an image with classes below it, so that their names are readable
INK, PAPER, BAR = "#1f2328", "#ffffff", "#9fd0ff"
# Okabe and Ito's colours, which people with colour blindness can distinguish, without black.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
SHADES = (0.0, 0.45, -0.4)  # of these colours for further classes: towards white, towards black


@dataclass(frozen=True)
class LabelledBoxes:
    """The boxes of one image.

    Args:
        boxes: (N, 4): left, top, right, bottom in pixels.
        labels: N class names.
        scores: N numbers 0 to 1, or None for ground truth.
    """

    boxes: Tensor
    labels: list[str]
    scores: list[float] | None = None

    def __post_init__(self) -> None:
        if tuple(self.boxes.shape) != (len(self.labels), 4):
            raise ArgumentError(f"boxes are {tuple(self.boxes.shape)}, but there are {len(self.labels)} labels")
        if self.scores is not None and len(self.scores) != len(self.labels):
            raise ArgumentError(f"there are {len(self.scores)} scores, but {len(self.labels)} labels")


def reduce(image: Any) -> Any:
    """Shrink a PIL image to at most 1024 pixels a side; magnify one that is smaller than 120 by a whole factor."""
    longer = max(image.size)
    if longer > LARGEST:
        factor = LARGEST / longer
        return image.resize([max(1, round(side * factor)) for side in image.size])
    times = NARROWEST // longer
    return image.resize([side * times for side in image.size], resample=0) if times > 1 else image


def annotate(image: Any, labels: Sequence[str], shares: Sequence[float]) -> Any:
    """Return an RGB image with class names and bars below a PIL image.

    Args:
        image: a PIL image.
        labels: class names, one for each line.
        shares: softmax of each class, 0 to 1.
    """
    from PIL import Image, ImageDraw

    image = reduce(image)
    width = max(image.width, NARROWEST)
    size = max(13, width // 36)
    line, gap = round(1.6 * size), size // 2
    page = Image.new("RGB", (width, image.height + line * len(labels) + 2 * gap), PAPER)
    page.paste(image, ((width - image.width) // 2, 0))
    pen, font = ImageDraw.Draw(page), font_of(size)
    for place, (label, share) in enumerate(zip(labels, shares, strict=True)):
        top = image.height + gap + place * line
        end = gap + round((width - 2 * gap) * share)
        pen.rectangle((gap, top, max(end, gap + 1), top + line - 3), fill=BAR)
        number = f"{share:.1%}"
        room = width - 4 * gap - pen.textlength(number, font=font)
        middle = top + (line - 3) / 2
        pen.text((2 * gap, middle), fit(label, room - gap, pen, font), fill=INK, font=font, anchor="lm")
        pen.text((width - 2 * gap, middle), number, fill=INK, font=font, anchor="rm")
    return page


def draw_boxes(image: Any, found: LabelledBoxes, classes: Sequence[str]) -> Any:
    """Return an RGB copy of a PIL image with boxes and their labels, the best scored on top.

    Boxes are clipped to the image; a box outside of it, or with a coordinate that is not finite, is not drawn. Labels
    are shortened to the available space, and left out if there is none.

    Args:
        image: a PIL image of any size.
        found: the boxes.
        classes: all class names; the position of a label decides its colour.

    Raises:
        ArgumentError: a label is not a class.
    """
    from PIL import ImageDraw

    labels, scores = found.labels, found.scores
    drawn = image.convert("RGB")  # a copy, even of an RGB image
    pen, line = ImageDraw.Draw(drawn), max(1, round(min(drawn.size) / 240))
    font = font_of(max(10, round(min(drawn.size) / 32)))
    colours = [colour_of(label, classes) for label in labels]
    order = sorted(range(len(labels)), key=lambda place: scores[place]) if scores is not None else range(len(labels))
    corners = [_clip(box, drawn.size) for box in found.boxes.tolist()]
    shown = [(place, corner) for place in order if (corner := corners[place]) is not None]
    for place, corner in shown:
        thinnest = (min(corner[2] - corner[0], corner[3] - corner[1]) + 2) // 2  # PIL draws wider lines outside the box
        pen.rectangle(corner, outline=colours[place], width=min(line, thinnest))
    for place, corner in shown:  # after all boxes, so that no line crosses a label
        score = "" if scores is None else f" {scores[place]:.0%}"
        _draw_label(pen, font, drawn.size, corner[:2], (labels[place], score), colours[place])
    return drawn


def colour_of(label: str, classes: Sequence[str]) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a class; the colours repeat after 21 classes.

    Raises:
        ArgumentError: the label is not a class.
    """
    from PIL import ImageColor

    if label not in classes:
        raise ArgumentError(f"the label {label!r} is not one of the {len(classes)} classes")
    turn, place = divmod(classes.index(label), len(COLOURS))
    red, green, blue = ImageColor.getrgb(COLOURS[place])[:3]
    shade = SHADES[turn % len(SHADES)]
    goal = 255 if shade > 0 else 0
    red, green, blue = (round(part + abs(shade) * (goal - part)) for part in (red, green, blue))
    return red, green, blue


def _clip(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the first and last pixels (left, top, right, bottom) of a box inside the image; None if there are none."""
    if not all(map(math.isfinite, box)):
        return None
    across, down = _span(box[0], box[2], size[0]), _span(box[1], box[3], size[1])
    return (across[0], down[0], across[1], down[1]) if across and down else None


def _span(low: float, high: float, size: int) -> tuple[int, int] | None:
    """Return the first and last of `size` pixels between two coordinates; one pixel if they are equal."""
    if low > high or low >= size or (low < 0 and high <= 0):
        return None
    first = min(max(round(low), 0), size - 1)
    return first, min(max(round(high) - 1, first), size - 1)


def _draw_label(
    pen: Any,
    font: Any,
    size: tuple[int, int],
    corner: tuple[int, int],
    text: tuple[str, str],
    colour: tuple[int, int, int],
) -> None:
    """Draw (label, score) on a strip above the box, or along its upper edge if there is no space above."""
    label, score = text
    margin = max(1, font.size // 6)
    height = font.size + 2 * margin
    room = min(size[0], 16 * font.size) - 2 * margin
    shown = fit(label, room - pen.textlength(score, font=font), pen, font) + score
    width = round(pen.textlength(shown, font=font)) + 2 * margin
    if width > size[0] or height > size[1]:
        return
    left = min(corner[0], size[0] - width)
    top = corner[1] - height if corner[1] >= height else min(corner[1], size[1] - height)
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    luminance = (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000
    ink = "black" if luminance > 110 else "white"
    pen.text((left + margin, top + height / 2), shown, fill=ink, font=font, anchor="lm")


def fit(text: str, room: float, pen: Any, font: Any) -> str:
    """Shorten a text with an ellipsis to at most `room` pixels on one line."""
    text = " ".join(text.split())
    if pen.textlength(text, font=font) <= room:
        return text
    while text and pen.textlength(text + "…", font=font) > room:
        text = text[:-1]
    return text + "…"


def font_of(size: int) -> Any:
    """Load the font that comes with matplotlib, which has Latin, Greek and Cyrillic letters on every machine."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
