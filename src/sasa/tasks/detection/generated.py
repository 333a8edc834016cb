"""Generated images with boxes, of the sizes of known detection sets, for dry runs without the data."""

from typing import Any

import torch
from PIL import Image

from sasa.data.detection.annotations import Targets
from sasa.data.detection.source import DetectionSource
from sasa.tasks.base import KnownSet, noise
from sasa.tasks.detection.config import DetectionConfig

KNOWN_SETS = {"coco": KnownSet(80, 118_287, 5_000)}
CPU_PART = 2  # images a step of a dry run without a GPU, whose memory a part for one of 8 GPUs would fill
BOXES_EACH = 7  # boxes an image: COCO has 7.3


class GeneratedBoxes(DetectionSource):
    """Noise, three quarters as high as wide, with seven boxes of an eighth to seven eighths of the height."""

    def __init__(self, classes: int, count: int, side: int) -> None:
        self.classes = [str(number) for number in range(classes)]
        self.category_ids, self.problems = list(range(1, classes + 1)), []
        self.count, self.height, self.width = count, max(1, side * 3 // 4), side

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Return the noise, shifted by `index`."""
        return noise(self.height, self.width, index).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """Return a name for messages."""
        return f"generated image {index}"

    file_name = name

    def image_id(self, index: int) -> int:
        """Return the index."""
        return index

    def size(self, index: int) -> tuple[int, int]:
        """Return the size of all images."""
        return self.height, self.width

    def targets(self, index: int) -> Targets:
        """Return boxes of growing size; their labels repeat in order."""
        sides = torch.arange(1, BOXES_EACH + 1) / (BOXES_EACH + 1) * self.height
        corners = (torch.arange(BOXES_EACH) / BOXES_EACH * self.width).clamp(max=self.width - sides)
        boxes = torch.stack((corners, self.height - sides, corners + sides, torch.full((BOXES_EACH,), self.height)), 1)
        labels = (torch.arange(BOXES_EACH) + index) % len(self.classes)
        return Targets(boxes.float(), labels, torch.zeros(BOXES_EACH, dtype=torch.bool))

    def coco(self) -> dict[str, Any]:
        """Not available: a dry run does not score."""
        raise NotImplementedError


def generate(known: KnownSet, config: DetectionConfig) -> tuple[GeneratedBoxes, GeneratedBoxes]:
    """Return training and held-out images of the size that the config's network sees."""
    side = config.data.image_size
    return GeneratedBoxes(known.classes, known.training, side), GeneratedBoxes(known.classes, known.held_out, side)
