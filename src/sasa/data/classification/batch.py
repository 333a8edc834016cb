"""Labelled images: from a source to batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sasa.data.classification.source import Source
from sasa.data.classification.transforms import Augmentation, Pipeline, Preprocessing, seeded
from sasa.data.loader import load, shares
from sasa.data.sampler import EpochBatches

Sample = tuple[Tensor, int]  # image (channels, image_size, image_size), label


@dataclass
class Batch:
    """A batch of labelled images."""

    images: Tensor  # (B, channels, image_size, image_size), float32, normalised
    labels: Tensor  # (B,), int64
    indices: Tensor  # (B,), int64: places in the source
    skipped: list[int] = field(default_factory=list)  # places of images that could not be read, and are not here

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> "Batch":
        """Copy to pinned memory, from which a GPU copies asynchronously."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices, self.skipped)

    def to(self, device: torch.device, channels_last: bool = False) -> "Batch":
        """Move to the device, with the images in channels_last memory format if asked for."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = self.images.to(device, non_blocking=True).contiguous(memory_format=layout)
        return Batch(images, self.labels.to(device, non_blocking=True), self.indices, self.skipped)


def training_loader(
    source: Source,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    batches: EpochBatches,
    workers: int,
    on_bad_image: str = "error",
) -> Iterator[Batch]:
    """Yield augmented batches in the sampler's order; see `load` for the arguments and errors."""
    sample = partial(_augmented, source, preprocessing.channels, augmentation.pipeline(preprocessing), seed)
    return load(sample, partial(_collate, preprocessing), batches, workers, on_bad_image)


def evaluation_loader(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    on_bad_image: str = "error",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield batches without augmentation: every image once over all processes; see `load` for the errors."""
    batches, collate = shares(source, batch_size, rank, world_size), partial(_collate, preprocessing)
    return load(partial(_plain, source, preprocessing), collate, batches, workers, on_bad_image)


def _augmented(source: Source, channels: int, pipeline: Pipeline, seed: int, epoch: int, index: int) -> Sample:
    return seeded(pipeline, source.read(index, channels), seed, epoch, index), source.labels[index]


def _plain(source: Source, preprocessing: Preprocessing, _epoch: int, index: int) -> Sample:
    return preprocessing.evaluation(source.read(index, preprocessing.channels)), source.labels[index]


def _collate(preprocessing: Preprocessing, samples: list[Sample], indices: list[int], skipped: list[int]) -> Batch:
    size = preprocessing.image_size
    images = [image for image, _ in samples]
    batch = torch.stack(images) if images else torch.empty(0, preprocessing.channels, size, size)
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return Batch(batch, labels, torch.tensor(indices, dtype=torch.int64), skipped)
