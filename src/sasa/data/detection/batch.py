"""Images with boxes: from a source to batches, in which images of different sizes are padded to one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from sasa.data.detection.annotations import Targets
from sasa.data.detection.source import DetectionSource
from sasa.data.detection.transforms import DetectionAugmentation, DetectionPreprocessing
from sasa.data.loader import load, shares
from sasa.data.sampler import EpochBatches

# The sides of a batch are multiples of the network's coarsest backbone stride, so that its feature maps align.
PAD_MULTIPLE = 32

# image (channels, height, width), the targets in it, (height, width) of the image before it was resized
Sample = tuple[Tensor, Targets, tuple[int, int]]


@dataclass
class DetectionBatch:
    """A batch of images with boxes."""

    images: Tensor  # (B, channels, H, W), float32, normalised; 0 to the right of and below smaller images
    sizes: list[tuple[int, int]]  # (height, width) of each image inside the padding
    targets: list[Targets]  # in pixels of `images`
    indices: Tensor  # (B,), int64: places in the source
    originals: list[tuple[int, int]]  # (height, width) of each image before it was resized, upright
    skipped: list[int] = field(default_factory=list)  # places of images that could not be read, and are not here

    def __len__(self) -> int:
        return len(self.indices)

    def pin_memory(self) -> "DetectionBatch":
        """Copy to pinned memory, from which a GPU copies asynchronously."""
        targets = [targets.pin_memory() for targets in self.targets]
        return replace(self, images=self.images.pin_memory(), targets=targets)

    def to(self, device: torch.device, channels_last: bool = False) -> "DetectionBatch":
        """Move to the device, with the images in channels_last memory format if asked for."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = self.images.to(device, non_blocking=True).contiguous(memory_format=layout)
        return replace(self, images=images, targets=[targets.to(device) for targets in self.targets])


def training_batches(
    source: DetectionSource,
    preprocessing: DetectionPreprocessing,
    augmentation: DetectionAugmentation,
    seed: int,
    batches: EpochBatches,
    workers: int,
    on_bad_image: str = "error",
) -> Iterator[DetectionBatch]:
    """Yield augmented batches in the sampler's order; see `load` for the arguments and errors."""
    sample = partial(_augmented, source, preprocessing, augmentation, seed)
    return load(sample, partial(_collate, preprocessing.channels), batches, workers, on_bad_image)


def evaluation_batches(
    source: DetectionSource,
    preprocessing: DetectionPreprocessing,
    batch_size: int,
    workers: int,
    on_bad_image: str = "error",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[DetectionBatch]:
    """Yield batches without augmentation: every image once over all processes; see `load` for the errors."""
    batches, collate = shares(source, batch_size, rank, world_size), partial(_collate, preprocessing.channels)
    return load(partial(_plain, source, preprocessing), collate, batches, workers, on_bad_image)


def _augmented(
    source: DetectionSource,
    preprocessing: DetectionPreprocessing,
    augmentation: DetectionAugmentation,
    seed: int,
    epoch: int,
    index: int,
) -> Sample:
    image = source.read(index, preprocessing.channels)
    tensor, targets = augmentation.seeded(preprocessing, image, source.targets(index), seed, epoch, index)
    return tensor, targets, (image.height, image.width)


def _plain(source: DetectionSource, preprocessing: DetectionPreprocessing, _epoch: int, index: int) -> Sample:
    image = source.read(index, preprocessing.channels)
    targets = preprocessing.fit_targets(source.targets(index), image.height, image.width)
    return preprocessing.evaluation(image), targets, (image.height, image.width)


def _collate(channels: int, samples: list[Sample], indices: list[int], skipped: list[int]) -> DetectionBatch:
    return DetectionBatch(
        images=pad_batch([image for image, _, _ in samples], channels=channels),
        sizes=[(image.shape[1], image.shape[2]) for image, _, _ in samples],
        targets=[targets for _, targets, _ in samples],
        indices=torch.tensor(indices, dtype=torch.int64),
        originals=[original for _, _, original in samples],
        skipped=skipped,
    )


def pad_batch(images: Sequence[Tensor], multiple: int = PAD_MULTIPLE, channels: int = 3) -> Tensor:
    """Stack images into (B, channels, H, W), each at the top left, with zeros to the right and below.

    Args:
        images: B tensors (channels, height, width) of one type, on one device.
        multiple: H and W are the largest height and width, rounded up to a multiple of this.
        channels: channels of a batch without images, whose H and W are `multiple`.
    """
    if not images:
        return torch.zeros(0, channels, multiple, multiple)
    largest = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = images[0].new_zeros(len(images), len(images[0]), *(-(-side // multiple) * multiple for side in largest))
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch
