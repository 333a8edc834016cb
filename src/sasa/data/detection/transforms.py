"""From an image and its boxes to a tensor and boxes in it: with augmentation for training, or without."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sasa.data.detection.annotations import Targets
from sasa.data.images import check_normalisation, functional, to_tensor
from sasa.data.random_numbers import mix, seeded_numbers
from sasa.errors import ArgumentError

# An object with less than this fraction of its box inside a crop is often unrecognisable: it is left out.
SMALLEST_PART = 0.25
# Minimum width and height in pixels of a box that is trained on.
SMALLEST_SIDE = 1.0
LARGEST_JITTER = 100  # Pillow cannot make the images of much larger factors


@dataclass(frozen=True)
class DetectionPreprocessing:
    """Preprocessing of every image, in training and afterwards; saved with the weights.

    Raises:
        ArgumentError: a value outside its range, or not one mean and std for each channel.
    """

    image_size: int = 640  # longer side of the network's input, in pixels
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of each channel, pixels being 0 to 1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = 3  # RGB; 1 is gray

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ArgumentError(f"image_size must be 1 or more pixels, got {self.image_size}")
        check_normalisation(self.channels, self.mean, self.std)

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image when resized to just fit into image_size x image_size."""
        return scaled(height, width, self.image_size / max(height, width))

    def evaluation(self, image: Image.Image) -> Tensor:
        """Convert to (channels, height, width): resized to `fit`, smaller images enlarged; normalised."""
        return self.to_tensor(functional().resize(image, list(self.fit(image.height, image.width))))

    def fit_targets(self, targets: Targets, height: int, width: int) -> Targets:
        """Scale the boxes of a height x width image as `evaluation` scales the image."""
        new_height, new_width = self.fit(height, width)
        x, y = new_width / width, new_height / height
        return Targets(targets.boxes * torch.tensor([x, y, x, y]), targets.labels, targets.crowd)

    def to_tensor(self, image: Image.Image) -> Tensor:
        """Convert to (channels, height, width), normalised, at the image's own size."""
        return to_tensor(image, self.mean, self.std)


@dataclass(frozen=True)
class DetectionAugmentation:
    """Augmentation of an image and its boxes in training (A.3 of the paper), in this order.

    Args:
        jitter_min, jitter_max: the image is resized to a random factor between these, times the size at which it
            fits into image_size x image_size. If it is larger then, a random crop of that size is taken.
        flip: horizontal flip with probability 0.5.
        vertical_flip: also a vertical flip: for images without a natural up and down.
        colour: brightness, contrast and saturation change by up to this fraction, 0 to 1.

    Raises:
        ArgumentError: a value outside its range.
    """

    jitter_min: float = 0.8
    jitter_max: float = 1.2
    flip: bool = True
    vertical_flip: bool = False
    colour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.jitter_min <= self.jitter_max < LARGEST_JITTER:
            limits = f"jitter_min ({self.jitter_min}) must be above 0 and at most jitter_max ({self.jitter_max})"
            raise ArgumentError(f"{limits}, and that below {LARGEST_JITTER}")
        if not 0 <= self.colour <= 1:
            raise ArgumentError(f"colour must be from 0 to 1, got {self.colour}")

    def seeded(
        self,
        preprocessing: DetectionPreprocessing,
        image: Image.Image,
        targets: Targets,
        seed: int,
        epoch: int,
        index: int,
    ) -> tuple[Tensor, Targets]:
        """Augment as a pure function of (seed, epoch, index); global random numbers are restored.

        Returns:
            (channels, height, width), normalised, neither side above image_size; and the targets in it. An object is
            left out if less than a quarter of its box remains, or less than a pixel of a side.
        """
        with seeded_numbers(mix(seed, epoch, index)):
            image, targets = self._augmented(preprocessing, image, targets)
        return preprocessing.to_tensor(image), targets

    def _augmented(
        self, preprocessing: DetectionPreprocessing, image: Image.Image, targets: Targets
    ) -> tuple[Image.Image, Targets]:
        T = functional()
        factor = torch.empty(()).uniform_(self.jitter_min, self.jitter_max).item()
        size = scaled(*preprocessing.fit(image.height, image.width), factor)
        drawn = _boxes_in(image, targets.boxes)
        image, drawn = T.resize(image, list(size)), T.resize(drawn, list(size))
        whole = _areas(drawn)
        window = _random_window(*size, preprocessing.image_size)
        image, drawn = T.crop(image, *window), T.crop(drawn, *window)
        for step in self._steps():
            image, drawn = step(image, drawn)
        boxes = drawn.as_subclass(Tensor)
        large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= SMALLEST_SIDE
        keep = large & (targets.crowd | (_areas(boxes) >= SMALLEST_PART * whole))
        return image, Targets(boxes, targets.labels, targets.crowd)[keep]

    def _steps(self) -> list[Any]:
        """The steps after the crop."""
        from torchvision.transforms import v2

        steps: list[Any] = [v2.RandomHorizontalFlip()] if self.flip else []
        steps += [v2.RandomVerticalFlip()] if self.vertical_flip else []
        steps += [v2.ColorJitter(self.colour, self.colour, self.colour)] if self.colour else []
        return steps


def scaled(height: int, width: int, factor: float) -> tuple[int, int]:
    """Multiply both sides by `factor`, rounded, at least 1."""
    return max(1, round(height * factor)), max(1, round(width * factor))


def _random_window(height: int, width: int, most: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop of an image, at most `most` pixels high and wide."""
    inner_height, inner_width = min(height, most), min(width, most)
    top = int(torch.randint(height - inner_height + 1, ()))
    left = int(torch.randint(width - inner_width + 1, ()))
    return top, left, inner_height, inner_width


def _boxes_in(image: Image.Image, boxes: Tensor) -> Any:
    """Wrap the boxes for torchvision, whose functions transform them together with the image."""
    from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

    size = (image.height, image.width)
    return BoundingBoxes(boxes, format=BoundingBoxFormat.XYXY, canvas_size=size)  # pyright: ignore[reportCallIssue]


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
