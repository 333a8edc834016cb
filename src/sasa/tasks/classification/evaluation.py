"""`sasa eval`: a trained network on held-out images."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sasa.data.classification import Source, open_splits
from sasa.data.classification.batch import evaluation_loader
from sasa.errors import DataError, SasaError
from sasa.metrics.confusion import ClassScore, Confusion, most_confused, per_class
from sasa.models.hub import locate
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.predictor import Predictor
from sasa.tasks.classification.score import Score, evaluate

MOST_CONFUSED = 20  # pairs of classes that are listed


@dataclass(frozen=True)
class Scored:
    """A network's score with the names that belong to it.

    Args:
        score: over all images that could be read.
        labels: names of the classes.
        skipped: names of the images that could not be read.
        seconds: reading the images included.
    """

    score: Score
    labels: list[str]
    skipped: list[str]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The figures over all classes, by the names that summary.json has."""
        score = self.score
        values = {
            "held_out_top1": round(score.top1, 6),
            "held_out_top5": round(score.top5, 6),
            "held_out_loss": round(score.loss, 6),
            "held_out_pictures": score.count,
            "images_per_second": round(score.count / max(self.seconds, 1e-9), 1),
        }
        return {**values, "skipped_pictures": len(self.skipped)} if self.skipped else values

    def classes(self) -> list[ClassScore]:
        """Recall and precision of each class."""
        return per_class(self.score.confusion, self.labels)

    def confused(self) -> list[Confusion]:
        """The pairs of classes that were most often taken for each other."""
        return most_confused(self.score.confusion, self.labels, MOST_CONFUSED)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it. `confusion` has a row for each true class and a column for each answer."""
        return {
            **self.summary(),
            "skipped": self.skipped,
            "labels": self.labels,
            "classes": [_recorded(row) for row in self.classes()],
            "most_confused": [_recorded(pair) for pair in self.confused()],
            "confusion": self.score.confusion.tolist(),
        }


def _recorded(row: ClassScore | Confusion) -> dict[str, Any]:
    """The row as JSON holds it, where the number of images has always been called "pictures"."""
    return {"pictures" if name == "images" else name: value for name, value in asdict(row).items()}


def score_network(
    predictor: Predictor,
    name: str,
    data: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    on_bad_image: str = "error",
) -> Scored:
    """Score on the held-out part of `data`, or of the data that the run had.

    Args:
        predictor: the network.
        name: the directory that it came from, or hf:OWNER/NAME.
        data: as `open_splits` takes it; by default that of the run.
        batch_size: images that go through the network together.
        workers: processes that read images; by default as many as the run had, or none.
        on_bad_image: "error" or "skip".

    Raises:
        SasaError: no data named, and the directory is no run.
        DataError: the data has other classes than the network; an image, or with "skip" every one, cannot be read.
    """
    config = _config_of(locate(name))
    if data is None and config is None:
        raise SasaError(f"{name} is no run with data of its own: name some with --data")
    source = _held_out(data, config)
    if source.classes != predictor.labels:
        raise DataError(
            f"the data has {len(source.classes)} classes ({', '.join(source.classes[:3])}, ...), the network knows "
            f"{len(predictor.labels)} ({', '.join(predictor.labels[:3])}, ...)"
        )
    if workers is None:
        workers = config.data.workers if config else 0
    began = time.monotonic()
    batches = evaluation_loader(source, predictor.preprocessing, batch_size, workers, on_bad_image)
    score = evaluate(predictor.network, batches, len(predictor.labels), predictor.device)
    if not score.count:
        raise DataError(f"none of the {len(source)} held-out images can be read")
    skipped = [source.name(index) for index in score.skipped]
    return Scored(score, predictor.labels, skipped, time.monotonic() - began)


def _config_of(directory: Path) -> TrainConfig | None:
    path = directory / "config.yaml"
    return TrainConfig.read(str(path)) if path.is_file() else None


def _held_out(data: str | None, config: TrainConfig | None) -> Source:
    """Drawn as the run drew it, so that no image that it learned from is among them."""
    config = config or TrainConfig()
    return open_splits(data or config.data.source, config.data.held_out, config.run.seed)[1]
