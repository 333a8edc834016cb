"""A picture file as a person would see it: RGB (or gray), upright, 8 bits."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sasa.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def is_picture(path: Path) -> bool:
    """Whether the name ends as picture files do; hidden files are not pictures."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_picture(source: Path | bytes, name: str | None = None, channels: int = 3) -> Image.Image:
    """Decode a picture whole, turn it upright, and bring it to RGB (channels=3) or gray (channels=1).

    16-bit pictures are scaled to 8, transparent ones laid on white, animations give their first frame.

    Args:
        source: a path, or the bytes of a file.
        name: what to call it in an error; the path by default.
        channels: 3 or 1.

    Raises:
        DataError: it cannot be read, or is no picture; names it.
    """
    name = name or str(source if isinstance(source, Path) else "the picture")
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            return to_8_bit(upright).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not a picture that can be read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def to_8_bit(picture: Image.Image) -> Image.Image:
    """16-bit and floating modes scaled to 8 bits, transparency laid on white; other modes as they are."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode == "I":
        return Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    if picture.mode == "F":
        return Image.fromarray((np.asarray(picture).clip(0, 1) * 255).round().astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture
