"""Reading image files as viewers show them: RGB or gray, upright, 8 bits."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from sasa.data.text import check_fetched, printable, read_bytes
from sasa.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = tuple(f".{name}" for name in "jpg jpeg jpe jfif png bmp gif webp avif jp2 tif tiff ppm pgm pbm pnm".split())
LARGEST = 1e18  # of mean and std, and its inverse the smallest std: normalised pixels must stay finite in float32


def is_image(path: Path) -> bool:
    """Return whether a file name has the suffix of an image; hidden files are not images."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(source: Path | bytes, name: str | None = None, channels: int = 3) -> Image.Image:
    """Decode an image, turn it upright, and convert it to RGB (channels=3) or gray (channels=1).

    16-bit images are scaled to 8 bits, transparent ones are put on white, animations give their first frame.

    Args:
        source: a path, or the bytes of a file.
        name: in errors; the path by default.
        channels: 3 or 1.

    Raises:
        DataError: it cannot be read, or is not an image.
    """
    name = name or (printable(source) if isinstance(source, Path) else "the image")
    try:
        content = read_bytes(source) if isinstance(source, Path) else source
        if not content:
            raise DataError(f"{name} is empty: an image of 0 bytes")
        check_fetched(name, content)
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            _turn_upright(image)
            return to_8_bit(image).convert("L" if channels == 1 else "RGB")
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that can be read") from error
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"{name} cannot be read: {reason.splitlines()[0]}") from error


def _turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation; where that is damaged, leave the image as it is stored, as viewers do."""
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit and floating-point modes to 8 bits, put transparency on white, convert LAB; leave other modes."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(_float_to_8_bit(np.asarray(image)))
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes all CMYK JPEGs for inverted; only those with Adobe's marker are.
        return ImageChops.invert(image)
    if image.mode == "LAB":  # Pillow converts it to RGB alone, not to gray
        return image.convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image


def _float_to_8_bit(values: np.ndarray) -> np.ndarray:
    """Convert values of 0 to 1, or of 0 to 255, to bytes; NaN becomes black.

    The format does not say which of the two ranges it is: values above 2 decide, as resampling may exceed 1 a little.
    """
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    scale = 255.0 if values.max(initial=0.0) <= 2 else 1.0
    return (values * scale).clip(0, 255).round().astype(np.uint8)


def functional() -> Any:
    """torchvision's functions of images, tensors and boxes, whose annotations name tensors only."""
    from torchvision.transforms.v2 import functional

    return functional


def check_normalisation(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise an `ArgumentError` unless mean and std have a value for each of 3 or 1 channels, those of std above 0."""
    if channels not in (1, 3):
        raise ArgumentError(f"channels must be 3 (RGB) or 1 (gray), got {channels}")
    if len(mean) != channels or len(std) != channels:
        raise ArgumentError(f"mean {mean} and std {std} must have {channels} values, one a channel")
    if not all(-LARGEST <= value <= LARGEST for value in mean):
        raise ArgumentError(f"mean must be {-LARGEST:g} to {LARGEST:g}, got {mean}")
    if not all(1 / LARGEST <= value <= LARGEST for value in std):
        raise ArgumentError(f"std must be {1 / LARGEST:g} to {LARGEST:g}, got {std}")


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert to (channels, height, width), float32, normalised; mean and std are for pixels of 0 to 1."""
    import torch

    T = functional()
    return T.normalize(T.to_dtype(T.pil_to_tensor(image), torch.float32, scale=True), mean, std)
