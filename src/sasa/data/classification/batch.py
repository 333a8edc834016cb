"""What every path from images to the network yields, and how an image that cannot be read is treated."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sasa.errors import ArgumentError

ON_BAD_IMAGE = ("error", "skip")


@dataclass
class Batch:
    """Some images of a set.

    Args:
        images: (B, channels, image_size, image_size), float32, normalised.
        labels: (B,), int64.
        indices: (B,), int64: places in the source.
        skipped: places in the source whose images could not be read and are not in the batch, see `on_bad_image`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    skipped: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> "Batch":
        """In memory that a GPU copies from on its own."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices, self.skipped)

    def to(self, device: torch.device, channels_last: bool = False) -> "Batch":
        """On the device, and with the channels of a pixel side by side if asked for."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = self.images.to(device, non_blocking=True).contiguous(memory_format=layout)
        return Batch(images, self.labels.to(device, non_blocking=True), self.indices, self.skipped)


def check_on_bad_image(value: str) -> str:
    """`value`, "error" (an image that cannot be read ends the run) or "skip" (it is left out, counted and listed).

    Raises:
        ArgumentError: neither.
    """
    if value not in ON_BAD_IMAGE:
        raise ArgumentError(f"on_bad_image must be {' or '.join(ON_BAD_IMAGE)}, got {value!r}")
    return value
