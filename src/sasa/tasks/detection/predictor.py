"""A trained detector: finds boxes in images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from sasa.data.detection.batch import PAD_MULTIPLE, pad_batch
from sasa.data.detection.transforms import DetectionPreprocessing
from sasa.models import RetinaNet
from sasa.models.boxes import SCORED, ScoredBoxes, Selection, select
from sasa.models.retinanet_config import RetinaNetConfig
from sasa.tasks.trained import TrainedNetwork

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class Detected:
    """The boxes found in one image, best first, in the pixels of the image file."""

    name: str
    boxes: list[tuple[float, float, float, float]]
    labels: list[str]
    scores: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; boxes are (x1, y1, x2, y2)."""
        found = zip(self.labels, self.scores, self.boxes, strict=True)
        return {
            "picture": self.name,
            "found": [{"label": label, "score": round(score, 6), "box": list(box)} for label, score, box in found],
        }


class Detector(TrainedNetwork):
    """A trained detector with its class names and preprocessing."""

    NETWORK: ClassVar[type] = RetinaNet
    OTHER_TASK: ClassVar[str] = "holds a classifier: use sasa eval, sasa predict or sasa attend"
    BATCH: ClassVar[int] = 8

    @staticmethod
    def preprocessing_from(values: dict[str, Any]) -> DetectionPreprocessing:
        """Make the preprocessing from plain values."""
        return DetectionPreprocessing(int(values["image_size"]), tuple(values["mean"]), tuple(values["std"]))

    def prepare(self, image: Image.Image) -> tuple[Tensor, Size]:
        """Return the resized image (3, height, width), normalised, and the image's original size (height, width)."""
        return self.preprocessing.evaluation(image), (image.height, image.width)

    def answers(
        self, names: Sequence[str], prepared: Sequence[tuple[Tensor, Size]], options: Selection | None = None
    ) -> list[Detected]:
        """Return the boxes of each image that `options` (SCORED) selects.

        Padding changes the output near an image's border, so images share a batch only if each is padded to the same
        size as it would be alone: the boxes of an image do not depend on the other images.
        """
        groups: dict[Size, list[int]] = {}
        for place, (tensor, _) in enumerate(prepared):
            groups.setdefault(_padded_size(tensor), []).append(place)
        found: dict[int, ScoredBoxes] = {}
        for places in groups.values():
            tensors = [prepared[place][0] for place in places]
            boxes = find(
                self.network,
                pad_batch(tensors).to(self.device),
                [(tensor.shape[1], tensor.shape[2]) for tensor in tensors],
                [prepared[place][1] for place in places],
                self.network.config,
                options or SCORED,
            )
            found |= zip(places, boxes, strict=True)
        return [self._named(name, found[place]) for place, name in enumerate(names)]

    def detect(self, images: Iterable[tuple[str, Image.Image]], selection: Selection) -> Iterator[Detected]:
        """Yield the boxes of each (name, image); images are RGB, of any size."""
        return (found for found, _ in self.stream(images, selection))

    def _named(self, name: str, found: ScoredBoxes) -> Detected:
        labels = [self.labels[label] for label in found.labels.tolist()]
        boxes = [(round(a, 2), round(b, 2), round(c, 2), round(d, 2)) for a, b, c, d in found.boxes.tolist()]
        return Detected(name, boxes, labels, found.scores.tolist())


def _padded_size(tensor: Tensor) -> Size:
    """Return the size that `pad_batch` gives an image alone, in multiples of PAD_MULTIPLE."""
    return -(-tensor.shape[1] // PAD_MULTIPLE), -(-tensor.shape[2] // PAD_MULTIPLE)


@torch.no_grad()
def find(
    model: nn.Module,
    images: Tensor,
    sizes: list[Size],
    originals: list[Size],
    config: RetinaNetConfig,
    selection: Selection = SCORED,
) -> list[ScoredBoxes]:
    """Find boxes in a batch; return them in pixels of the original images, on the CPU.

    Args:
        model: (B, 3, H, W) -> `Outputs`, in eval mode.
        images: (B, 3, H, W), padded.
        sizes: of each image inside its padding.
        originals: of each image before it was resized.
        config: of the detector.
        selection: the boxes to keep.
    """
    result = []
    for boxes, (h, w), (height, width) in zip(
        select(config, model(images), sizes, selection), sizes, originals, strict=True
    ):
        scale = torch.tensor([width / w, height / h] * 2)
        result.append(ScoredBoxes(boxes.boxes.cpu() * scale, boxes.labels.cpu(), boxes.scores.cpu()))
    return result
