"""A picture with what the network says of it, in a band below: one line a class, with a bar for its share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

LARGEST = 1024  # pixels of the longer side of the picture
NARROWEST = 240  # pixels of the band: a picture of 16 x 16 is no reason for letters that nobody can read
INK, PAPER, BAR = "#1f2328", "#ffffff", "#9fd0ff"


def reduce(picture: Any) -> Any:
    """The PIL picture with at most 1024 pixels a side, as it is where it is smaller; a small one is magnified."""
    longer = max(picture.size)
    if longer > LARGEST:
        factor = LARGEST / longer
        return picture.resize([max(1, round(side * factor)) for side in picture.size])
    times = NARROWEST // longer  # whole times, without smoothing: the pixels stay what they are
    return picture.resize([side * times for side in picture.size], resample=0) if times > 1 else picture


def annotate(picture: Any, labels: Sequence[str], shares: Sequence[float]) -> Any:
    """A new RGB picture: the picture, and below it the classes, best first.

    Args:
        picture: a PIL picture.
        labels: a class name each line.
        shares: of each class, 0 to 1.
    """
    from PIL import Image, ImageDraw

    picture = reduce(picture)
    width = max(picture.width, NARROWEST)
    size = max(13, width // 36)
    line, gap = round(1.6 * size), size // 2
    whole = Image.new("RGB", (width, picture.height + line * len(labels) + 2 * gap), PAPER)
    whole.paste(picture, ((width - picture.width) // 2, 0))
    pen, font = ImageDraw.Draw(whole), font_of(size)
    for place, (label, share) in enumerate(zip(labels, shares, strict=True)):
        top = picture.height + gap + place * line
        end = gap + round((width - 2 * gap) * share)
        pen.rectangle((gap, top, max(end, gap + 1), top + line - 3), fill=BAR)
        number = f"{share:.1%}"
        room = width - 4 * gap - pen.textlength(number, font=font)
        middle = top + (line - 3) / 2
        pen.text((2 * gap, middle), fit(label, room - gap, pen, font), fill=INK, font=font, anchor="lm")
        pen.text((width - 2 * gap, middle), number, fill=INK, font=font, anchor="rm")
    return whole


def fit(text: str, room: float, pen: Any, font: Any) -> str:
    """The text on one line, cut off with an ellipsis where it is wider than `room` pixels."""
    text = " ".join(text.split())
    if pen.textlength(text, font=font) <= room:
        return text
    while text and pen.textlength(text + "…", font=font) > room:
        text = text[:-1]
    return text + "…"


def font_of(size: int) -> Any:
    """The font that comes with matplotlib: it has Latin, Greek and Cyrillic letters on every machine."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
