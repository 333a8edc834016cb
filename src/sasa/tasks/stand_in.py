"""Images that stand in for those of a known data set where it is not at hand: for the cost of a step, not to learn.

A config that names "imagenet", "cifar10" or "coco" where no such folder is gets as many images as the set has. Any
other path that is not there stays an error: it is more likely a typing mistake.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sasa.data.classification import Source
from sasa.data.detection.annotations import Targets
from sasa.data.detection.source import DetectionSource
from sasa.tasks.detection.config import DetectionConfig
from sasa.training.settings import Config

BOXES_EACH = 7  # of an image: COCO's have 7.3


@dataclass(frozen=True)
class KnownSet:
    """What is known of a data set without having it: classes, images to train on, images to score."""

    classes: int
    training: int
    held_out: int


KNOWN_SETS = {
    "imagenet": KnownSet(1000, 1_281_167, 50_000),
    "cifar10": KnownSet(10, 50_000, 10_000),
    "coco": KnownSet(80, 118_287, 5_000),
}


def stand_in(config: Config) -> KnownSet | None:
    """The set whose images have to be generated, because the config has its bare name and nothing is there."""
    source = config.data.source
    known = None if Path(source).exists() else KNOWN_SETS.get(source)
    return known if isinstance(config, DetectionConfig) == (source == "coco") else None


def generated(config: Config, known: KnownSet) -> tuple[Any, Any]:
    """Images to train on and to score, of the size that the network of the config sees."""
    kind = GeneratedBoxes if isinstance(config, DetectionConfig) else GeneratedImages
    side = config.data.image_size
    return kind(known.classes, known.training, side), kind(known.classes, known.held_out, side)


def noise(height: int, width: int, index: int) -> Image.Image:
    """The same noise for every `index`, moved down by as many pixels."""
    return Image.fromarray(np.roll(_pixels(height, width), index, 0))


@functools.cache
def _pixels(height: int, width: int) -> np.ndarray:
    """Drawn once: the time of a dry run shall be that of its steps."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class GeneratedImages(Source):
    """Square noise with labels in turn."""

    def __init__(self, classes: int, count: int, side: int) -> None:
        self.classes = [str(number) for number in range(classes)]
        self.labels = [number % classes for number in range(count)]
        self.side = side

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The noise, shifted by `index`."""
        return noise(self.side, self.side, index).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """For messages."""
        return f"generated image {index}"


class GeneratedBoxes(DetectionSource):
    """Noise, three quarters as high as wide, with seven boxes from an eighth of the height to nearly all of it."""

    def __init__(self, classes: int, count: int, side: int) -> None:
        self.classes = [str(number) for number in range(classes)]
        self.category_ids, self.problems = list(range(1, classes + 1)), []
        self.count, self.height, self.width = count, max(1, side * 3 // 4), side

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The noise, shifted by `index`."""
        return noise(self.height, self.width, index).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """For messages."""
        return f"generated image {index}"

    file_name = name

    def image_id(self, index: int) -> int:
        """Its number."""
        return index

    def size(self, index: int) -> tuple[int, int]:
        """The same for all."""
        return self.height, self.width

    def targets(self, index: int) -> Targets:
        """Boxes of growing size, of classes in turn."""
        sides = torch.arange(1, BOXES_EACH + 1) / (BOXES_EACH + 1) * self.height
        corners = (torch.arange(BOXES_EACH) / BOXES_EACH * self.width).clamp(max=self.width - sides)
        boxes = torch.stack((corners, self.height - sides, corners + sides, torch.full((BOXES_EACH,), self.height)), 1)
        labels = (torch.arange(BOXES_EACH) + index) % len(self.classes)
        return Targets(boxes.float(), labels, torch.zeros(BOXES_EACH, dtype=torch.bool))

    def coco(self) -> dict[str, Any]:
        """A dry run scores nothing."""
        raise NotImplementedError
