"""`sasa detect eval`: a trained detector on the images of a split."""

import time
from dataclasses import dataclass
from typing import Any

from sasa.data.detection.batch import evaluation_batches
from sasa.data.detection.open import open_detection_split
from sasa.errors import DataError, SasaError
from sasa.metrics.average_precision import AveragePrecision, average_precision
from sasa.models.hub import locate
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.detection.predictor import Detector, find_all


@dataclass(frozen=True)
class DetectionScored:
    """A detector's score.

    Args:
        score: over all images that could be read.
        results: what was found, as COCO has results.
        skipped: names of the images that could not be read: what is in them counts as not found.
        problems: what is wrong with the annotations, a sentence each.
        seconds: reading the images included.
    """

    score: AveragePrecision
    results: list[dict[str, Any]]
    skipped: list[str]
    problems: list[str]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The figures over all classes, as shares of 1."""
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

    def to_dict(self) -> dict[str, Any]:
        """Everything but the boxes, as JSON holds it."""
        return {**self.score.to_dict(), "skipped": self.skipped, "problems": self.problems}


def score_detector(
    detector: Detector,
    name: str,
    data: str | None = None,
    split: str = "val",
    batch_size: int = 8,
    workers: int | None = None,
    on_bad_image: str = "error",
) -> DetectionScored:
    """Score on a split of `data`, or of the data that the run had.

    Args:
        detector: the network with its labels.
        name: the directory that it came from, or hf:OWNER/NAME.
        data: as `open_detection_split` takes it; by default that of the run.
        split: "train", "val" or "test".
        batch_size: images that go through the network together.
        workers: processes that read images; by default as many as the run had, or none.
        on_bad_image: "error" or "skip".

    Raises:
        SasaError: no data named, and the directory is no run.
        DataError: the data has other classes than the network; an image, or with "skip" every one, cannot be read.
    """
    path = locate(name) / "config.yaml"
    config = DetectionConfig.read(str(path)) if path.is_file() else None
    if data is None and config is None:
        raise SasaError(f"{name} is no run with data of its own: name some with --data")
    settings = config or DetectionConfig()
    source = open_detection_split(
        data or settings.data.source, split, settings.data.held_out, settings.run.seed, detector.labels
    )
    if workers is None:
        workers = config.data.workers if config else 0
    began = time.monotonic()
    batches = evaluation_batches(source, detector.preprocessing, batch_size, workers, on_bad_image)
    results, skipped = find_all(detector.network, batches, source, detector.device, detector.network.config)
    if len(skipped) == len(source):
        raise DataError(f"none of the {len(source)} images can be read")
    names = [source.name(index) for index in skipped]
    problems = [str(problem) for problem in source.problems]
    score = average_precision(source.coco(), results)
    return DetectionScored(score, results, names, problems, time.monotonic() - began)
