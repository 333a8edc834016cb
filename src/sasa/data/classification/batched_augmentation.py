"""`Augmentation` for a whole batch of stored images at once, on any device: crop, flip, normalise, erase.

Random numbers, and the source of each pixel of a crop, are computed on the CPU with numpy, from a few numbers for
each image; pixels are gathered on the device. Every operation on pixels is elementwise and every sum has a fixed number
of terms in a fixed order, so the augmentation of an image is the same, bit for bit, in any batch.

Letters in shapes: B images, H x W as stored, C channels, S = image_size, K taps of the interpolation.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.data.classification.transforms import Augmentation, Preprocessing
from sasa.data.random_numbers import uniform

# Distributions of torchvision's RandomResizedCrop and RandomErasing, which also try ten times.
_TRIES = 10
_CROP_RATIO = (3 / 4, 4 / 3)
_ERASING_SCALE, _ERASING_RATIO = (0.02, 0.33), (0.3, 3.3)


@dataclass(frozen=True)
class Boxes:
    """A rectangle in each of B images, in pixels; all fields (B,), int64. Height 0 means no rectangle."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray


def draw_boxes(
    chance_BD: np.ndarray, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], whole: bool
) -> Boxes:
    """Draw rectangles of uniform area and log-uniform aspect ratio, at a uniform position.

    Args:
        chance_BD: (B, 22) in [0, 1): area and aspect ratio of ten tries, then top and left.
        size: H, W of the images.
        scale: smallest and largest part of the area.
        ratio: smallest and largest aspect ratio: width over height if `whole`, else height over width, which differs
            only by the rounding of the limits (as in torchvision).
        whole: whether a rectangle may span the image; after ten tries that do not fit, it is then the largest centred
            one within `ratio`. Otherwise it must be smaller on both sides; after ten tries there is none.
    """
    height, width = size
    area = height * width * _between(chance_BD[:, 0 : 2 * _TRIES : 2], *scale)
    aspect = np.exp(_between(chance_BD[:, 1 : 2 * _TRIES : 2], math.log(ratio[0]), math.log(ratio[1])))
    long, short = (np.rint(np.sqrt(squared)).astype(int) for squared in (area * aspect, area / aspect))
    w, h = (long, short) if whole else (short, long)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height) if whole else (w < width) & (h < height)
    first = fits.argmax(1)[:, None]
    w, h = np.take_along_axis(w, first, 1)[:, 0], np.take_along_axis(h, first, 1)[:, 0]
    top = (chance_BD[:, 2 * _TRIES] * (height - h + 1)).astype(int)
    left = (chance_BD[:, 2 * _TRIES + 1] * (width - w + 1)).astype(int)
    else_h, else_w = _largest_box(height, width, ratio) if whole else (0, 0)
    otherwise = (height - else_h) // 2, (width - else_w) // 2, else_h, else_w
    some = fits.any(1)
    return Boxes(*(np.where(some, a, b) for a, b in zip((top, left, h, w), otherwise, strict=True)))


def _between(chance: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * chance


def _largest_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """The largest rectangle in an image whose width over height is within `ratio`."""
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def taps(start: np.ndarray, length: np.ndarray, out: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear interpolation along one axis, with the low-pass filter of Pillow and torchvision when it shrinks.

    Args:
        start, length: (B,): first pixel and pixels of each crop.
        out: number of output pixels, S.
        count: K, at least 2 * max(1, length / out) rounded up; the same in every batch, for sums of the same terms.

    Returns:
        Pixels (B, S, K), int64, and their weights (B, S, K), float64, which sum to 1 over K.
    """
    scale = (length / out)[:, None]
    support = np.maximum(scale, 1.0)
    centre = (np.arange(out) + 0.5) * scale
    first = np.maximum(np.trunc(centre - support + 0.5), 0)
    last = np.minimum(np.trunc(centre + support + 0.5), length[:, None])
    pixel = first[:, :, None] + np.arange(count)
    weight = np.maximum(0.0, 1.0 - np.abs(pixel - centre[:, :, None] + 0.5) / support[:, :, None])
    weight = np.where(pixel < last[:, :, None], weight, 0.0)
    pixel = np.minimum(pixel, length[:, None, None] - 1) + start[:, None, None]
    return pixel.astype(np.int64), weight / weight.sum(2, keepdims=True)


class BatchAugmentation:
    """`Augmentation`, without auto_augment, for stored images of one size: a function of seed, epoch and index.

    `size` is H, W of the stored images: image_size twice, unless the crop is "resized".
    """

    def __init__(self, augmentation: Augmentation, preprocessing: Preprocessing, size: tuple[int, int], seed: int):
        self.augmentation, self.preprocessing, self.size, self.seed = augmentation, preprocessing, size, seed

    def __call__(self, pixels_BHWC: Tensor, keys: list[tuple[int, int]]) -> Tensor:
        """Augment pixels, uint8; the result is (B, C, S, S), float32, channels last. `keys` are (epoch, index)."""
        chance_BD = uniform(self.seed, keys, 5 * _TRIES)  # flip, whether to erase, 22 for the crop, 22 to erase
        flipped = self.augmentation.flip & (chance_BD[:, 0] < 0.5)
        maps = self._crop(pixels_BHWC, chance_BD[:, 2:24], flipped)
        maps = normalise(maps, self.preprocessing)
        if self.augmentation.erasing:
            erased = chance_BD[:, 1] < self.augmentation.erasing
            maps.masked_fill_(self._rectangles(chance_BD[:, 24:46], erased, maps.device), 0.0)
        return maps

    def _crop(self, pixels_BHWC: Tensor, chance_BD: np.ndarray, flipped: np.ndarray) -> Tensor:
        side = self.preprocessing.image_size
        if self.augmentation.crop == "resized":
            return self._resized(pixels_BHWC, chance_BD, flipped)
        padding = self.augmentation.crop_padding if self.augmentation.crop == "pad" else 0
        if padding:
            pixels_BHWC = F.pad(pixels_BHWC, (0, 0, padding, padding, padding, padding))
        top, left = ((chance_BD[:, i] * (2 * padding + 1)).astype(int)[:, None] for i in range(2))
        across = np.where(flipped[:, None], np.arange(side)[::-1], np.arange(side))
        if not padding and not flipped.any():
            return pixels_BHWC
        return _cut(pixels_BHWC, top + np.arange(side), left + across)

    def _resized(self, pixels_BHWC: Tensor, chance_BD: np.ndarray, flipped: np.ndarray) -> Tensor:
        side, device = self.preprocessing.image_size, pixels_BHWC.device
        scale = (self.augmentation.crop_scale, 1.0)
        box = draw_boxes(chance_BD, self.size, scale, _CROP_RATIO, whole=True)
        maps = pixels_BHWC
        for start, length, stored, backwards in (
            (box.top, box.height, self.size[0], np.zeros_like(flipped)),
            (box.left, box.width, self.size[1], flipped),
        ):
            pixel, weight = taps(start, length, side, math.ceil(2 * max(1.0, stored / side)))
            pixel, weight = (np.where(backwards[:, None, None], x[:, ::-1], x) for x in (pixel, weight))
            weight_BSK = torch.from_numpy(weight.astype(np.float32)).to(device)
            maps = _interpolate(maps, torch.from_numpy(pixel).to(device), weight_BSK).transpose(1, 2)
        return maps

    def _rectangles(self, chance_BD: np.ndarray, erased: np.ndarray, device: torch.device) -> Tensor:
        """(B, 1, S, S), true where an image is erased."""
        side = self.preprocessing.image_size
        box = draw_boxes(chance_BD, (side, side), _ERASING_SCALE, _ERASING_RATIO, whole=False)
        pixel = np.arange(side)
        rows = (pixel >= box.top[:, None]) & (pixel < (box.top + box.height)[:, None]) & erased[:, None]
        columns = (pixel >= box.left[:, None]) & (pixel < (box.left + box.width)[:, None])
        rows, columns = torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
        return (rows[:, :, None] & columns[:, None, :])[:, None]


def normalise(pixels_BHWC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise pixels of 0 to 255 as `Preprocessing.to_tensor` does: (B, C, H, W), float32, channels last."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32).to(pixels_BHWC.device)
        for values in (preprocessing.mean, preprocessing.std)
    )
    maps = pixels_BHWC.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return maps.mul_(1 / 255).sub_(mean).div_(std).permute(0, 3, 1, 2)


def _cut(pixels_BHWC: Tensor, rows_BS: np.ndarray, columns_BS: np.ndarray) -> Tensor:
    """(B, S, S, C): the given rows and columns of each image."""
    count, height, width, channels = pixels_BHWC.shape
    place = rows_BS[:, :, None] * width + columns_BS[:, None, :]
    place += (np.arange(count) * (height * width))[:, None, None]
    flat = torch.from_numpy(place.reshape(-1)).to(pixels_BHWC.device)
    chosen = pixels_BHWC.reshape(-1, channels).index_select(0, flat)
    return chosen.view(count, rows_BS.shape[1], columns_BS.shape[1], channels)


def _interpolate(maps_BHWC: Tensor, pixel_BSK: Tensor, weight_BSK: Tensor) -> Tensor:
    """(B, S, W, C), float32: weighted sums of rows."""
    count, height, width, channels = maps_BHWC.shape
    side, device = pixel_BSK.shape[1], maps_BHWC.device
    rows = maps_BHWC.to(torch.float32).reshape(count * height, width * channels)
    place = (pixel_BSK + height * torch.arange(count, device=device)[:, None, None]).flatten(0, 1)
    weight = weight_BSK.flatten(0, 1)
    total = torch.zeros(count * side, width * channels, device=device)
    for tap in range(place.shape[1]):
        total += rows.index_select(0, place[:, tap]).mul_(weight[:, tap, None])
    return total.view(count, side, width, channels)
