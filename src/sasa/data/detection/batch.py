"""Images of different sizes side by side in one tensor, with their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sasa.data.detection.annotations import Targets

# The sides of a batch are multiples of the network's coarsest backbone stride, so that its maps fit onto each other.
PAD_MULTIPLE = 32


@dataclass
class DetectionBatch:
    """Some images of a set.

    Args:
        images: (B, channels, H, W), float32, normalised; 0 to the right of and below smaller images.
        sizes: (height, width) of each image inside the padding.
        targets: of each image, in pixels of `images`.
        indices: (B,), int64: places in the source.
        originals: (height, width) of each image before it was resized, upright.
        skipped: places in the source whose images could not be read and are not in the batch, see `on_bad_image`.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: list[Targets]
    indices: Tensor
    originals: list[tuple[int, int]]
    skipped: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    def pin_memory(self) -> "DetectionBatch":
        """In memory that a GPU copies from on its own."""
        targets = [targets.pin_memory() for targets in self.targets]
        return self._with(self.images.pin_memory(), targets)

    def to(self, device: torch.device, channels_last: bool = False) -> "DetectionBatch":
        """Images and targets on the device, and with the channels of a pixel side by side if asked for."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = self.images.to(device, non_blocking=True).contiguous(memory_format=layout)
        return self._with(images, [targets.to(device) for targets in self.targets])

    def _with(self, images: Tensor, targets: list[Targets]) -> "DetectionBatch":
        return DetectionBatch(images, self.sizes, targets, self.indices, self.originals, self.skipped)


def pad_batch(images: Sequence[Tensor], multiple: int = PAD_MULTIPLE, channels: int = 3) -> Tensor:
    """(B, channels, H, W): the images at the top left, zeros beside and below them.

    Args:
        images: B tensors (channels, height, width) of one type, on one device.
        multiple: H and W are the largest height and width, rounded up to a multiple of this.
        channels: of a batch without images, whose H and W are `multiple`.
    """
    if not images:
        return torch.zeros(0, channels, multiple, multiple)
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    shape = (len(images), images[0].shape[0], _rounded_up(height, multiple), _rounded_up(width, multiple))
    batch = images[0].new_zeros(shape)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def _rounded_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
