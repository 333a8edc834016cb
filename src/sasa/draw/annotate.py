"""An image with what the network says of it, in a band below: one line a class, with a bar for its share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

LARGEST = 1024  # pixels of the longer side of the image
NARROWEST = 240  # pixels of the band: an image of 16 x 16 is no reason for letters that nobody can read
INK, PAPER, BAR = "#1f2328", "#ffffff", "#9fd0ff"


def reduce(image: Any) -> Any:
    """The PIL image with at most 1024 pixels a side, as it is where it is smaller; a small one is magnified."""
    longer = max(image.size)
    if longer > LARGEST:
        factor = LARGEST / longer
        return image.resize([max(1, round(side * factor)) for side in image.size])
    times = NARROWEST // longer  # whole times, without smoothing: the pixels stay what they are
    return image.resize([side * times for side in image.size], resample=0) if times > 1 else image


def annotate(image: Any, labels: Sequence[str], shares: Sequence[float]) -> Any:
    """A new RGB image: the image, and below it the classes, best first.

    Args:
        image: a PIL image.
        labels: a class name each line.
        shares: of each class, 0 to 1.
    """
    from PIL import Image, ImageDraw

    image = reduce(image)
    width = max(image.width, NARROWEST)
    size = max(13, width // 36)
    line, gap = round(1.6 * size), size // 2
    whole = Image.new("RGB", (width, image.height + line * len(labels) + 2 * gap), PAPER)
    whole.paste(image, ((width - image.width) // 2, 0))
    pen, font = ImageDraw.Draw(whole), font_of(size)
    for place, (label, share) in enumerate(zip(labels, shares, strict=True)):
        top = image.height + gap + place * line
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
