"""A trained detector with what belongs to it: class names and preprocessing. Finds boxes in images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sasa.data.detection.batch import DetectionBatch, pad_batch
from sasa.data.detection.source import DetectionSource
from sasa.data.detection.transforms import DetectionPreprocessing
from sasa.models import RetinaNet
from sasa.models.boxes import SCORED, Boxes, Selection, select
from sasa.models.retinanet_config import RetinaNetConfig
from sasa.tasks.classification.predictor import choose_device, load_trained

BATCH = 8  # images that go through the network together


@dataclass(frozen=True)
class Detected:
    """The boxes found in one image, best first, in its own pixels."""

    name: str
    boxes: list[tuple[float, float, float, float]]
    labels: list[str]
    scores: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: boxes are (x1, y1, x2, y2)."""
        found = zip(self.labels, self.scores, self.boxes, strict=True)
        return {
            "picture": self.name,
            "found": [{"label": label, "score": round(score, 6), "box": list(box)} for label, score, box in found],
        }


class Detector:
    """A network of a run's folder, or of any directory that `save_pretrained` wrote with labels and preprocessing."""

    def __init__(self, network: RetinaNet, labels: list[str], preprocessing: DetectionPreprocessing) -> None:
        self.network, self.labels, self.preprocessing = network.eval(), labels, preprocessing
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> "Detector":
        """Read weights, labels and preprocessing.

        Args:
            name: a directory, or hf:OWNER/NAME.
            device: "auto", "cpu" or "cuda".

        Raises:
            SasaError: not such a directory, no detector, or one without labels or preprocessing; no such device.
        """
        place = choose_device(device)
        other = "holds a classifier: use sasa eval, sasa predict or sasa attend"
        network, labels, preprocessing = load_trained(name, RetinaNet, other, preprocessing_from)
        return cls(network.to(place), labels, preprocessing)

    def detect(self, images: Iterable[tuple[str, Image.Image]], selection: Selection) -> Iterator[Detected]:
        """Boxes of named RGB images of any sizes; images of similar shape are best given one after the other."""
        stream = iter(images)
        while named := list(islice(stream, BATCH)):
            tensors = [self.preprocessing.evaluation(image) for _, image in named]
            sizes = [(t.shape[1], t.shape[2]) for t in tensors]
            originals = [(image.height, image.width) for _, image in named]
            found = find(
                self.network, pad_batch(tensors).to(self.device), sizes, originals, self.network.config, selection
            )
            for (name, _), boxes in zip(named, found, strict=True):
                yield self._named(name, boxes)

    def _named(self, name: str, found: Boxes) -> Detected:
        labels = [self.labels[label] for label in found.labels.tolist()]
        boxes = [(round(a, 2), round(b, 2), round(c, 2), round(d, 2)) for a, b, c, d in found.boxes.tolist()]
        return Detected(name, boxes, labels, found.scores.tolist())


@torch.no_grad()
def find(
    model: nn.Module,
    images: Tensor,
    sizes: list[tuple[int, int]],
    originals: list[tuple[int, int]],
    config: RetinaNetConfig,
    selection: Selection = SCORED,
) -> list[Boxes]:
    """Boxes in the pixels of the original images, on the CPU.

    Args:
        model: (B, 3, H, W) -> `Outputs`, in eval mode.
        images: (B, 3, H, W), padded.
        sizes: (height, width) of each image inside its padding.
        originals: (height, width) of each image as it was.
        config: of the detector.
        selection: what is kept.
    """
    result = []
    for boxes, (h, w), (height, width) in zip(
        select(config, model(images), sizes, selection), sizes, originals, strict=True
    ):
        scale = torch.tensor([width / w, height / h] * 2)
        result.append(Boxes(boxes.boxes.cpu() * scale, boxes.labels.cpu(), boxes.scores.cpu()))
    return result


def find_all(
    model: nn.Module,
    batches: Iterable[DetectionBatch],
    source: DetectionSource,
    device: torch.device,
    config: RetinaNetConfig,
    channels_last: bool = False,
) -> tuple[list[dict[str, Any]], list[int]]:
    """COCO's results for the images of a source, and the places of those that could not be read.

    The model is put into eval mode and back.
    """
    training = model.training
    model.eval()
    results, skipped = [], []
    for batch in batches:
        skipped += batch.skipped
        if len(batch):
            batch = batch.to(device, channels_last)
            found = find(model, batch.images, batch.sizes, batch.originals, config)
            for index, boxes in zip(batch.indices.tolist(), found, strict=True):
                results += coco_results(boxes, source.image_id(index), source.category_ids)
    model.train(training)
    return results, skipped


def coco_results(found: Boxes, image_id: int | str, category_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """The boxes of an image as COCO has results: bbox is (x, y, width, height)."""
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for (x1, y1, x2, y2), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        )
    ]


def preprocessing_from(values: dict[str, Any]) -> DetectionPreprocessing:
    """The inverse of `preprocessing_to`."""
    return DetectionPreprocessing(int(values["image_size"]), tuple(values["mean"]), tuple(values["std"]))
