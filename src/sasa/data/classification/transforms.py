"""From an image to a tensor: with augmentation for training (a function of seed, epoch and index), or without."""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from sasa.data.classification.auto_augment import Policy, check_policy
from sasa.data.images import check_normalisation, functional, to_tensor
from sasa.data.random_numbers import mix, seeded_numbers
from sasa.errors import ArgumentError

LARGEST_SIDE = 2**16  # pixels to which an image is resized: a mistyped fraction would take all memory
CROPS = ("resized", "pad", "none")


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of every image, in training and afterwards; saved with the weights."""

    image_size: int  # side of the network's square input, in pixels
    channels: int = 3  # RGB; 1 is gray
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of each channel, pixels being 0 to 1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_fraction: float = 1.0  # evaluation resizes the shorter side to image_size / this, and takes the centre crop

    def __post_init__(self) -> None:
        check_normalisation(self.channels, self.mean, self.std)
        if not 0 < self.crop_fraction <= 1:
            raise ArgumentError(f"crop_fraction must be above 0 and at most 1, got {self.crop_fraction}")
        if self.image_size / self.crop_fraction >= LARGEST_SIDE:
            sides = f"{self.image_size} / {self.crop_fraction:g}"
            raise ArgumentError(f"image_size / crop_fraction must be below {LARGEST_SIDE} pixels, got {sides}")

    def to_tensor(self, image: Image.Image) -> Tensor:
        """Convert to (channels, height, width), normalised, at the image's own size."""
        return to_tensor(image, self.mean, self.std)

    def evaluation(self, image: Image.Image) -> Tensor:
        """Convert to (channels, image_size, image_size): shorter side resized, centre crop, normalised."""
        return self.to_tensor(self.square(image))

    @property
    def resized_side(self) -> int:
        """Length of the shorter side before the centre crop, in pixels."""
        return round(self.image_size / self.crop_fraction)

    def resize(self, image: Image.Image) -> Image.Image:
        """Resize the image to a shorter side of `resized_side`."""
        if min(image.size) == self.resized_side:
            return image
        return functional().resize(image, [self.resized_side], antialias=True)

    def square(self, image: Image.Image) -> Image.Image:
        """The centre crop that the network sees in evaluation."""
        return functional().center_crop(self.resize(image), [self.image_size, self.image_size])

    def place(self, row: int, column: int, height: int, width: int) -> tuple[float, float]:
        """Locate pixel (row, column) of a height x width image in `square`, in fractions 0 to 1 of its side.

        Raises:
            ArgumentError: outside the image, or cut off by the centre crop.
        """
        if not (0 <= row < height and 0 <= column < width):
            raise ArgumentError(f"pixel {row},{column} is outside the image of {height} x {width}")
        scale = self.resized_side / min(height, width)
        y = 0.5 + ((row + 0.5) - height / 2) * scale / self.image_size
        x = 0.5 + ((column + 0.5) - width / 2) * scale / self.image_size
        if not (0 <= y < 1 and 0 <= x < 1):
            raise ArgumentError(
                f"pixel {row},{column} of the {height} x {width} image is outside the centre crop that the network sees"
            )
        return y, x


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of an image in training, in this order.

    Args:
        crop: "resized" (a random part of the image, `crop_scale` to 1 of its area, resized), "pad" (a random
            crop of the image padded by `crop_padding` black pixels) or "none".
        crop_padding: pixels, for "pad".
        crop_scale: smallest part of the image's area, above 0 up to 1, for "resized".
        flip: horizontal flip with probability 0.5.
        auto_augment: "" or a policy by timm's name, such as "rand-m9-mstd0.5-inc1", "original", "3a" (without the
            colour jitter that timm's own scripts add to it) or "augmix-m3". Needs timm, whose import takes seconds.
        erasing: probability, 0 to 1, that a rectangle of 2 to 33 % of the area is erased. It is set to 0 after
            normalisation, which is the mean colour.

    Raises:
        ArgumentError: a value outside its range, or a policy that timm does not know.
    """

    crop: str = "resized"
    crop_padding: int = 4
    crop_scale: float = 0.08
    flip: bool = True
    auto_augment: str = ""
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ArgumentError(f"crop must be one of {', '.join(CROPS)}; got {self.crop!r}")
        if self.crop_padding < 0:
            raise ArgumentError(f"crop_padding must be 0 or more pixels, got {self.crop_padding}")
        if not 0 < self.crop_scale <= 1:
            raise ArgumentError(f"crop_scale must be above 0 and at most 1, got {self.crop_scale}")
        if not 0 <= self.erasing <= 1:
            raise ArgumentError(f"erasing must be from 0 to 1, got {self.erasing}")
        if self.auto_augment:
            check_policy(self.auto_augment)

    def pipeline(self, preprocessing: Preprocessing) -> "Pipeline":
        """Build the steps from an image to the network's input, for `seeded`."""
        from torchvision.transforms import v2

        steps = self._crop(preprocessing)
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.auto_augment:
            steps.append(Policy(self.auto_augment, preprocessing.image_size, preprocessing.mean))
        steps.append(preprocessing.to_tensor)
        if self.erasing:
            steps.append(v2.RandomErasing(self.erasing, value=0.0))
        return Pipeline(steps, python_and_numpy=bool(self.auto_augment))

    def _crop(self, preprocessing: Preprocessing) -> list[Any]:
        from torchvision.transforms import v2

        size = preprocessing.image_size
        if self.crop == "resized":
            return [v2.RandomResizedCrop(size, scale=(self.crop_scale, 1.0), antialias=True)]
        return [preprocessing.square] + ([v2.RandomCrop(size, padding=self.crop_padding)] if self.crop == "pad" else [])


@dataclass(frozen=True)
class Pipeline:
    """Steps from an image to a tensor."""

    steps: list[Any]  # applied in order; they draw from torch's global CPU generator
    python_and_numpy: bool = False  # whether they also draw from `random` and `numpy.random`

    def __call__(self, image: Any) -> Tensor:
        """Apply the steps with the current global random numbers; the result is (channels, image_size, image_size)."""
        for step in self.steps:
            image = step(image)
        return image


def seeded(pipeline: Pipeline, image: Image.Image, seed: int, epoch: int, index: int) -> Tensor:
    """Apply the pipeline as a pure function of (seed, epoch, index); global random numbers are restored."""
    with seeded_numbers(mix(seed, epoch, index), pipeline.python_and_numpy):
        return pipeline(image)
