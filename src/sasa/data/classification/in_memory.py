"""A data set that fits into memory: decoded once, kept as bytes on the device, augmented there in batches.

Training on small images is then limited by the network, without worker processes. Differences from the loader:

- Augmentation is drawn from other random numbers (the same distributions, see
  `sasa.data.classification.batched_augmentation`), and a resized crop is not rounded to 8 bits.
- With crop "pad" or "none" the stored image is `Preprocessing.square`, which the loader crops too.
- With crop "resized" images are stored as they are if all have one size, of at most four times the pixels that
  evaluation resizes to. Otherwise the central square of each is stored, of the side that evaluation resizes to:
  the rest is not used, and a small crop is enlarged from fewer pixels than in the loader.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sasa.data.classification import Source
from sasa.data.classification.batch import Batch
from sasa.data.classification.batched_augmentation import BatchAugmentation, normalise
from sasa.data.classification.transforms import Augmentation, Preprocessing
from sasa.data.loader import check_on_bad_image
from sasa.errors import ArgumentError, DataError

_SHARE = 0.8  # of the memory; the rest is for the network and its feature maps


class InMemoryImages:
    """All images of a source, decoded in order at construction.

    Args:
        source: the training images or the held-out images.
        preprocessing: of every image.
        augmentation: of training; None if `training_batch` is not used.
        seed: of the augmentation.
        device: on which images are kept and batches are made.
        on_bad_image: "error" raises the source's DataError; "skip" lists the place of the image in `bad`.

    Raises:
        ArgumentError: auto_augment, which works on single images; or a set larger than 80 % of the free memory of
            the device, found after decoding only the first image.
        DataError: an image cannot be read (with "error"), or none can.
    """

    bad: list[int]

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        seed: int,
        device: torch.device | str,
        on_bad_image: str = "error",
    ) -> None:
        if augmentation and augmentation.auto_augment:
            raise ArgumentError(
                "data.in_memory augments batches on the device and cannot do data.auto_augment "
                f"{augmentation.auto_augment!r}; leave one of them out"
            )
        self.source, self.preprocessing, self.device = source, preprocessing, torch.device(device)
        self._skip = check_on_bad_image(on_bad_image) == "skip"
        self._labels = torch.tensor(list(source.labels), dtype=torch.int64).to(self.device)
        resized = augmentation is not None and augmentation.crop == "resized"
        self._squared = not resized
        if not resized:
            self._decode(preprocessing.square, preprocessing.image_size)
        elif not self._decode_as_they_are():
            self._decode(partial(_middle, preprocessing), preprocessing.resized_side)
        if len(self.bad) == len(source):
            raise DataError(f"none of the {len(source)} images can be read, {source.name(0)} being the first")
        self._is_bad = frozenset(self.bad)
        self._augment = augmentation and BatchAugmentation(augmentation, preprocessing, self.stored_size, seed)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width of the images in memory, in pixels."""
        return self._pixels.shape[1], self._pixels.shape[2]

    def __len__(self) -> int:
        return len(self.source)

    def training_batch(self, keys: list[tuple[int, int]]) -> Batch:
        """Make a batch of augmented images: those that could be read, on the device, with indices on the CPU.

        Each depends on the seed and its key only, an (epoch, index) as `EpochBatches` yields them.
        """
        if self._augment is None:
            raise ArgumentError("these images are kept for evaluation (augmentation None), not for training")
        readable = [key for key in keys if key[1] not in self._is_bad]
        return self._batch([index for _, index in keys], partial(self._augment, keys=readable))

    def evaluation_batch(self, indices: Sequence[int]) -> Batch:
        """Make a batch of images as `Preprocessing.evaluation` does.

        They are equal bit for bit, unless images are stored at their own size and need resizing (crop "resized"):
        then a pixel may differ by 1 of 255, as Pillow and torch round differently.
        """
        return self._batch(indices, lambda pixels: normalise(self._squares(pixels), self.preprocessing))

    def _batch(self, indices: Sequence[int], transform: Callable[[Tensor], Tensor]) -> Batch:
        """Transform the pixels of the images that could be read; the others are skipped."""
        good, skipped = [i for i in indices if i not in self._is_bad], [i for i in indices if i in self._is_bad]
        chosen = torch.tensor(good, dtype=torch.int64)
        there = chosen.to(self.device)
        return Batch(transform(self._pixels[there]), self._labels[there], chosen, skipped)

    def _squares(self, pixels_BHWC: Tensor) -> Tensor:
        """`Preprocessing.square` of stored pixels."""
        from torchvision.transforms.v2 import functional as T

        size, maps = self.preprocessing.image_size, pixels_BHWC.permute(0, 3, 1, 2)
        if self._squared:
            return pixels_BHWC
        if not len(pixels_BHWC):
            return pixels_BHWC.new_empty(0, size, size, self.preprocessing.channels)
        if min(self.stored_size) != self.preprocessing.resized_side:
            maps = T.resize(maps, [self.preprocessing.resized_side], antialias=True)
        return T.center_crop(maps, [size, size]).permute(0, 2, 3, 1)

    def _decode_as_they_are(self) -> bool:
        """Store images at their own size; False, and none stored, if sizes differ or are too large."""
        first = next((image for i in range(len(self)) if (image := self._read(i))), None)
        if first is None or first.width * first.height > (2 * self.preprocessing.resized_side) ** 2:
            return False
        return self._decode(lambda image: image, first.height, first.width)

    def _decode(self, change: Callable[[Image.Image], Image.Image], height: int, width: int = 0) -> bool:
        """Fill `_pixels` (N, height, width or height, C) and `bad`; False at an image of another size."""
        width = width or height
        shape = len(self), height, width, self.preprocessing.channels
        self._pixels = torch.empty(0)  # frees what an earlier attempt stored
        check_memory(shape, self.device)
        self.bad, self._pixels = [], torch.zeros(shape, dtype=torch.uint8, device=self.device)
        for index in range(len(self)):
            image = self._read(index)
            if image is None:
                self.bad.append(index)
                continue
            image = change(image)
            if image.size != (width, height):
                return False
            self._pixels[index] = torch.from_numpy(np.array(image).reshape(shape[1:]))
        return True

    def _read(self, index: int) -> Image.Image | None:
        try:
            return self.source.read(index, self.preprocessing.channels)
        except DataError:
            if not self._skip:
                raise
            return None


def _middle(preprocessing: Preprocessing, image: Image.Image) -> Image.Image:
    """The square of side `resized_side` in which `square` lies exactly in the middle."""
    side, size = preprocessing.resized_side, preprocessing.image_size
    image = preprocessing.resize(image)
    # The centre of the centre crop may be a pixel off that of the whole image: round() as center_crop does.
    margin = round((side - size) / 2)
    left, top = (round((length - size) / 2) - margin for length in image.size)
    return image.crop((left, top, left + side, top + side))


def check_memory(shape: tuple[int, ...], device: torch.device) -> None:
    """Raise an `ArgumentError` unless `shape` bytes leave at least a fifth of the device's free memory."""
    needed, there = float(np.prod(shape, dtype=np.float64)), available_memory(device)
    if needed > _SHARE * there:
        raise ArgumentError(
            f"data.in_memory needs {needed / 1e9:.3g} GB for {shape[0]} images of {shape[1]} x {shape[2]} pixels, "
            f"more than 80 % of the {there / 1e9:.3g} GB that are free on {device}; leave it out"
        )


def available_memory(device: torch.device) -> int:
    """Free bytes of the GPU, or of the machine (the limit of a container is not known here)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")  # includes the system's cache of files
    if meminfo.is_file() and (found := re.search(r"^MemAvailable:\s*(\d+)", meminfo.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
