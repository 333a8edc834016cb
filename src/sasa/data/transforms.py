"""From a picture to a tensor: augmentation for training (a function of seed, epoch and index), none for evaluation."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sasa.data.sampler import mix
from sasa.errors import ArgumentError

CROPS = ("resized", "pad", "none")


@dataclass(frozen=True)
class Preprocessing:
    """What every picture goes through, in training and ever after; kept beside the weights.

    Args:
        image_size: side of the square that the network sees, in pixels.
        channels: 3 (RGB) or 1 (gray).
        mean, std: of each channel, pixels being 0 to 1.
        crop_fraction: evaluation resizes the shorter side to image_size / crop_fraction and cuts out the centre.
    """

    image_size: int
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ArgumentError(f"mean {self.mean} and std {self.std} must have {self.channels} values, one a channel")

    def to_tensor(self, picture: Image.Image) -> Tensor:
        """(channels, height, width), normalised, at the picture's own size."""
        T = _functional()
        return T.normalize(T.to_dtype(T.pil_to_tensor(picture), torch.float32, scale=True), self.mean, self.std)

    def evaluation(self, picture: Image.Image) -> Tensor:
        """(channels, image_size, image_size): shorter side resized, centre cut out, normalised."""
        return self.to_tensor(self.square(picture))

    def square(self, picture: Image.Image) -> Image.Image:
        """What the network is shown of a picture in evaluation."""
        T = _functional()
        side = round(self.image_size / self.crop_fraction)
        if min(picture.size) != side:
            picture = T.resize(picture, [side], antialias=True)
        return T.center_crop(picture, [self.image_size, self.image_size])

    def place(self, row: int, column: int, height: int, width: int) -> tuple[float, float]:
        """Where pixel (row, column) of a height x width picture lies in `square`, as fractions 0 to 1 of its side.

        Raises:
            ArgumentError: outside the picture, or cut off by the centre crop.
        """
        if not (0 <= row < height and 0 <= column < width):
            raise ArgumentError(f"pixel {row},{column} is outside the picture of {height} x {width}")
        scale = round(self.image_size / self.crop_fraction) / min(height, width)
        y = 0.5 + ((row + 0.5) - height / 2) * scale / self.image_size
        x = 0.5 + ((column + 0.5) - width / 2) * scale / self.image_size
        if not (0 <= y < 1 and 0 <= x < 1):
            raise ArgumentError(
                f"pixel {row},{column} of the {height} x {width} picture is not in the square at its centre that the "
                "network sees"
            )
        return y, x


@dataclass(frozen=True)
class Augmentation:
    """What training does to a picture.

    Args:
        crop: "resized" (a random part of 8 to 100 % of the picture, resized), "pad" (the picture padded by
            `crop_padding` and cut out at random) or "none".
        crop_padding: pixels, for "pad".
        crop_scale: smallest part of the picture's area, for "resized".
        flip: left and right swapped for every other picture.
        auto_augment: "" or a policy by timm's name, such as "rand-m9-mstd0.5-inc1".
        erasing: share of the pictures from which a rectangle is erased.
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

    def pipeline(self, preprocessing: Preprocessing) -> Any:
        """The torchvision transform of pictures that do it, with torch's global random numbers."""
        from torchvision.transforms import v2

        size = preprocessing.image_size
        steps: list[Any] = []
        if self.crop == "resized":
            steps.append(v2.RandomResizedCrop(size, antialias=True))
        else:
            steps.append(preprocessing.square)
        if self.crop == "pad":
            steps.append(v2.RandomCrop(size, padding=self.crop_padding))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose([*steps, preprocessing.to_tensor])


def seeded(pipeline: Any, picture: Image.Image, seed: int, epoch: int, index: int) -> Tensor:
    """The pipeline's result as a pure function of (seed, epoch, index): other random numbers stay untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, epoch, index))
        return pipeline(picture)


def _functional() -> Any:
    """torchvision's functions of pictures and tensors; their annotations name tensors only."""
    from torchvision.transforms.v2 import functional

    return functional
