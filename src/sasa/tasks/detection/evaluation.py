"""Average precision on the images of a split: while training, and of a trained detector (`sasa detect eval`)."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sasa.data.detection.batch import DetectionBatch, evaluation_batches
from sasa.data.detection.open import open_detection_split
from sasa.data.detection.source import DetectionSource
from sasa.errors import DataError
from sasa.metrics.average_precision import AveragePrecision, average_precision
from sasa.models.boxes import ScoredBoxes
from sasa.models.retinanet_config import RetinaNetConfig
from sasa.nn.modes import evaluating
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.detection.predictor import Detector, find
from sasa.tasks.trained import Evaluation, EvaluationOptions, config_and_options


class DetectionScore(AveragePrecision):
    """Average precision on held-out images, with the columns of metrics.csv."""

    def row(self) -> dict[str, float]:
        """Return the columns of metrics.csv."""
        figures = {"held_out_map": self.map, "held_out_map50": self.map50, "held_out_map75": self.map75}
        return {name: round(figure, 6) for name, figure in figures.items()}


@dataclass(frozen=True)
class DetectionEvaluation(Evaluation):
    """The `AveragePrecision` of a trained detector; boxes of images that could not be read count as not found.

    Args:
        results: the boxes found, as in COCO's results files.
        problems: sentences about the annotations.
    """

    results: list[dict[str, Any]]
    problems: list[str]

    def summary(self) -> dict[str, Any]:
        """Return mean average precision at several overlaps and sizes of boxes."""
        score = self.score.to_dict()
        names = {"map": "map", "map50": "map50", "map75": "map75"}
        names |= {f"map_{size}": size for size in ("small", "medium", "large")}
        values = {
            **{shown: None if score[name] is None else round(score[name], 6) for shown, name in names.items()},
            "pictures": score["pictures"],
            "boxes": sum(score["boxes"].values()),
            "found": score["detections"],
            "images_per_second": round(score["pictures"] / max(self.seconds, 1e-9), 1),
        }
        if self.problems:
            values["problems_in_annotations"] = len(self.problems)
        return {**values, "skipped_pictures": len(self.skipped)} if self.skipped else values

    def class_table(self) -> tuple[list[str], list[list[Any]]]:
        """Return a heading and a row for each class; None where it has no boxes."""
        score = self.score.to_dict()
        rows = [[name, score["boxes"][name], *figures] for name, figures in score["per_class"].items()]
        return ["class", "boxes", "mAP", "mAP 50"], rows

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the boxes."""
        return {**self.score.to_dict(), "skipped": self.skipped, "problems": self.problems}


def evaluate(detector: Detector, name: str, options: EvaluationOptions | None = None) -> DetectionEvaluation:
    """Score a trained detector on the images of a split: by default the validation split of its run's data.

    Args:
        detector: the network with its class names.
        name: the directory that it came from, or hf:OWNER/NAME.
        options: the data and how it is read.

    Raises:
        SasaError: no data given, and the directory is not a run.
        DataError: the data has other classes than the network; an image, or with "skip" every one, cannot be read.
    """
    config, options = config_and_options(name, options, DetectionConfig)
    source = open_detection_split(
        str(options.data), options.split, config.data.held_out, config.run.seed, detector.labels
    )
    began = time.monotonic()
    batches = evaluation_batches(
        source, detector.preprocessing, options.batch_size, options.workers or 0, options.on_bad_image
    )
    results, skipped = find_all(detector.network, batches, source, detector.device, detector.network.config)
    if len(skipped) == len(source):
        raise DataError(f"none of the {len(source)} images can be read")
    return DetectionEvaluation(
        average_precision(source.coco(), results),
        detector.labels,
        [source.name(index) for index in skipped],
        time.monotonic() - began,
        results,
        [str(problem) for problem in source.problems],
    )


def find_all(
    model: nn.Module,
    batches: Iterable[DetectionBatch],
    source: DetectionSource,
    device: torch.device,
    config: RetinaNetConfig,
    channels_last: bool = False,
) -> tuple[list[dict[str, Any]], list[int]]:
    """Find boxes in the images of a source; return COCO's results, and the indices of images that could not be read.

    It runs in evaluation mode; the previous modes of its modules are restored.
    """
    results, skipped = [], []
    with evaluating(model):
        for batch in batches:
            skipped += batch.skipped
            if len(batch):
                batch = batch.to(device, channels_last)
                found = find(model, batch.images, batch.sizes, batch.originals, config)
                for index, boxes in zip(batch.indices.tolist(), found, strict=True):
                    results += coco_results(boxes, source.image_id(index), source.category_ids)
    return results, skipped


def coco_results(found: ScoredBoxes, image_id: int | str, category_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """Return the boxes of an image as entries of COCO's results files: bbox is (x, y, width, height)."""
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for (x1, y1, x2, y2), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        )
    ]
