"""Batches of images with boxes, read by worker processes: in the sampler's order, or each image once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sasa.data.classification.batch import check_on_bad_image
from sasa.data.classification.loader import read, shares
from sasa.data.detection.annotations import Targets
from sasa.data.detection.batch import DetectionBatch, pad_batch
from sasa.data.detection.source import DetectionSource
from sasa.data.detection.transforms import DetectionAugmentation, DetectionPreprocessing
from sasa.data.sampler import EpochBatches
from sasa.errors import DataError

# (image, targets, epoch, index) -> what the network sees, and the targets in it
Transform = Callable[[Image.Image, Targets, int, int], tuple[Tensor, Targets]]


def training_batches(
    source: DetectionSource,
    preprocessing: DetectionPreprocessing,
    augmentation: DetectionAugmentation,
    seed: int,
    batches: EpochBatches,
    workers: int,
    on_bad_image: str = "error",
) -> Iterator[DetectionBatch]:
    """Augmented batches from the sampler's first to its last: the same whatever process or worker reads them.

    Raises:
        DataError: while iterating, an image that cannot be read, unless `on_bad_image` is "skip".
    """
    transform = partial(_augmented, augmentation, preprocessing, seed)
    return _read(_Images(source, preprocessing.channels, transform, on_bad_image), batches, workers)


def evaluation_batches(
    source: DetectionSource,
    preprocessing: DetectionPreprocessing,
    batch_size: int,
    workers: int,
    on_bad_image: str = "error",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[DetectionBatch]:
    """Batches without augmentation; over all processes every image comes once.

    Raises:
        DataError: while iterating, an image that cannot be read, unless `on_bad_image` is "skip".
    """
    images = _Images(source, preprocessing.channels, partial(_plain, preprocessing), on_bad_image)
    own = shares(cast(Any, source), batch_size, rank, world_size)  # only the length of the source is looked at
    return _read(images, own, workers)


def _read(images: "_Images", batches: Any, workers: int) -> Iterator[DetectionBatch]:
    return cast(Iterator[DetectionBatch], read(images, batches, workers))


def _augmented(
    augmentation: DetectionAugmentation,
    preprocessing: DetectionPreprocessing,
    seed: int,
    image: Image.Image,
    targets: Targets,
    epoch: int,
    index: int,
) -> tuple[Tensor, Targets]:
    return augmentation.seeded(preprocessing, image, targets, seed, epoch, index)


def _plain(
    preprocessing: DetectionPreprocessing, image: Image.Image, targets: Targets, _epoch: int, _index: int
) -> tuple[Tensor, Targets]:
    return preprocessing.evaluation(image), preprocessing.fit_targets(targets, image.height, image.width)


class _Images(Dataset):
    """[(epoch, index), ...] -> DetectionBatch, or the text of a `DataError`: `read` raises it."""

    def __init__(self, source: DetectionSource, channels: int, transform: Transform, on_bad_image: str) -> None:
        self.source, self.channels, self.transform = source, channels, transform
        self.skip = check_on_bad_image(on_bad_image) == "skip"

    def __getitems__(self, keys: list[tuple[int, int]]) -> DetectionBatch | str:
        tensors, targets, indices, originals, skipped = [], [], [], [], []
        for epoch, index in keys:
            try:
                image = self.source.read(index, self.channels)
            except DataError as error:
                if not self.skip:
                    return str(error)
                skipped.append(index)
                continue
            tensor, found = self.transform(image, self.source.targets(index), epoch, index)
            tensors.append(tensor)
            targets.append(found)
            indices.append(index)
            originals.append((image.height, image.width))
        sizes = [(tensor.shape[1], tensor.shape[2]) for tensor in tensors]
        images = pad_batch(tensors, channels=self.channels)
        return DetectionBatch(images, sizes, targets, torch.tensor(indices, dtype=torch.int64), originals, skipped)
