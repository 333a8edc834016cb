"""A trained detector: finds boxes in images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from sasa.data.detection.batch import PAD_MULTIPLE, pad_batch
from sasa.data.detection.open import open_detection_split
from sasa.data.detection.transforms import DetectionPreprocessing
from sasa.draw.annotate import LabelledBoxes
from sasa.models import RetinaNet
from sasa.models.boxes import SCORED, ScoredBoxes, Selection, select
from sasa.models.retinanet_config import RetinaNetConfig
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.trained import LARGEST, Answer, NamedImage, TrainedNetwork

MOST_IMAGES = 4  # of the validation set that are shown

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

    def drawn(self) -> LabelledBoxes:
        """Return the boxes as the functions of `sasa.draw.annotate` take them."""
        return LabelledBoxes(torch.tensor(self.boxes).view(-1, 4), self.labels, self.scores)


class Detector(TrainedNetwork):
    """A trained detector with its class names and preprocessing; it sees the whole image, resized and padded."""

    KIND: ClassVar[str] = "detector"
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

    @property
    def side(self) -> int:
        """The largest side in pixels that an image is resized and padded to."""
        return -(-self.preprocessing.image_size // PAD_MULTIPLE) * PAD_MULTIPLE

    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the images, padded to (B, 3, side, side)."""
        tensors = [self.prepare(image)[0] for image in images]
        return pad_batch([*tensors, tensors[0].new_zeros(len(tensors[0]), self.side, self.side)])[:-1]

    def best(self, image: Image.Image, score: float) -> list[Answer]:
        """Return the boxes with at least this score, best first."""
        (found,) = self.predict([("", image)], Selection(score=score))
        return [
            Answer(label, score, (x1 / image.width, y1 / image.height, x2 / image.width, y2 / image.height))
            for label, score, (x1, y1, x2, y2) in zip(found.labels, found.scores, found.boxes, strict=True)
        ]

    def shown(self, image: Image.Image) -> Image.Image:
        """Return the image, reduced if it is large."""
        copy = image.copy()
        copy.thumbnail((LARGEST, LARGEST))
        return copy

    def seen_size(self, image: Image.Image) -> Size:
        """Return (height, width) of the resized image."""
        return self.preprocessing.fit(image.height, image.width)

    def validation_images(self, directory: Path) -> Iterator[NamedImage]:
        """Return the first four images of the validation set."""
        config = DetectionConfig.read(str(directory / "config.yaml"))
        data = config.data
        source = open_detection_split(data.source, "val", data.held_out, config.run.seed, self.labels)
        for index in range(min(MOST_IMAGES, len(source))):
            yield NamedImage(source.name(index), source.read(index, self.preprocessing.channels))

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
