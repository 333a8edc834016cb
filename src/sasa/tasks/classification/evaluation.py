"""Accuracy and loss on held-out images: while training, and of a trained network (`sasa eval`)."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.data.classification import open_splits
from sasa.data.classification.batch import Batch, evaluation_loader
from sasa.data.text import listed, printable
from sasa.errors import DataError
from sasa.metrics.confusion import MOST_DENSE, ClassScore, Confusion, count_pairs, most_confused, pairs, per_class
from sasa.nn.modes import evaluating
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.predictor import Predictor
from sasa.tasks.trained import Evaluation, EvaluationOptions, config_and_options

MOST_CONFUSED = 20  # pairs of classes that are listed
TOP = 5  # highest logits among which top-5 accuracy looks for the true class


@dataclass(frozen=True)
class Score:
    """A network's score on held-out images.

    Args:
        loss: mean cross-entropy.
        top1, top5: fraction of the images whose class has the highest logit, or one of the five highest.
        count: images.
        confusion: (classes, classes), int64, sparse, on the CPU: images of class `row` that were predicted as `column`.
        skipped: indices in the source of images that could not be read.
    """

    loss: float
    top1: float
    top5: float
    count: int
    confusion: Tensor
    skipped: list[int] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Return the columns of metrics.csv."""
        return {"held_out_loss": round(self.loss, 6), "held_out_top1": round(self.top1, 6)}

    def summary(self) -> dict[str, Any]:
        """Return the figures by the names in summary.json; no top-5 of five classes or fewer: it would always be 1."""
        return {
            "held_out_top1": round(self.top1, 6),
            "held_out_top5": round(self.top5, 6) if len(self.confusion) > TOP else None,
            "held_out_loss": round(self.loss, 6),
            "held_out_pictures": self.count,
        }

    @property
    def quality(self) -> tuple[float, float]:
        """Figures that the best checkpoint is chosen by: top-1, and the loss if that is equal."""
        return self.top1, -self.loss


@torch.no_grad()
def score_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    device: torch.device,
    channels_last: bool = False,
    gather: Callable[[Tensor], list[Tensor]] = lambda tensor: [tensor],
) -> Score:
    """Score a model in evaluation mode; the previous modes of its modules are restored.

    Args:
        model: (B, channels, H, W) -> logits (B, num_classes).
        batches: of held-out images; with several processes, those of this process.
        num_classes: classes of the model.
        device: of the model.
        channels_last: memory layout of the images.
        gather: returns the tensors of all processes.
    """
    loss, found, skipped = torch.zeros((), dtype=torch.float64), [], []
    with evaluating(model):
        for batch in batches:
            skipped += batch.skipped
            if len(batch):
                batch = batch.to(device, channels_last)
                logits = model(batch.images).float()
                loss += F.cross_entropy(logits, batch.labels, reduction="sum").cpu()
                found.append(torch.cat([batch.labels[:, None], logits.topk(min(TOP, num_classes)).indices], 1).cpu())
    none = torch.zeros(0, 1 + min(TOP, num_classes), dtype=torch.int64)
    truth, *best = torch.cat([none, *gather(torch.cat([none, *found]))]).unbind(1)
    right = [(answer == truth).sum().item() for answer in best]
    seen = max(1, len(truth))
    return Score(
        torch.stack(gather(loss)).sum().item() / seen,
        right[0] / seen,
        sum(right) / seen,
        len(truth),
        count_pairs(truth, best[0], num_classes),
        skipped,
    )


@dataclass(frozen=True)
class ClassificationEvaluation(Evaluation):
    """The `Score` of a trained classifier."""

    def summary(self) -> dict[str, Any]:
        """Return loss, top-1 and top-5."""
        speed = round(self.score.count / max(self.seconds, 1e-9), 1)
        values = {**self.score.summary(), "images_per_second": speed}
        return {**values, "skipped_pictures": len(self.skipped)} if self.skipped else values

    def classes(self) -> list[ClassScore]:
        """Return recall and precision of each class."""
        return per_class(self.score.confusion, self.labels)

    def class_table(self) -> tuple[list[str], list[list[Any]]]:
        """Return a heading and a row for each class; None where a class had no images or was never predicted."""
        rows = [[row.label, row.images, row.recall, row.precision] for row in self.classes()]
        return ["class", "images", "recall", "precision"], rows

    def confused(self) -> list[Confusion]:
        """Return the pairs of classes that were confused most often."""
        return most_confused(self.score.confusion, self.labels, MOST_CONFUSED)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON holds it.

        `confusion` has a row for each true class. With more than 1,000 classes it is None, and `confusion_pairs` lists
        [true class, predicted class, images] of every pair that occurred, with the classes as indices into `labels`.
        """
        confusion, dense = self.score.confusion, len(self.labels) <= MOST_DENSE
        matrix: dict[str, Any] = {"confusion": confusion.to_dense().tolist() if dense else None}
        if not dense:
            matrix["confusion_pairs"] = torch.stack(pairs(confusion), 1).tolist()
        return {
            **self.summary(),
            "skipped": self.skipped,
            "labels": self.labels,
            "classes": [_to_json(row) for row in self.classes()],
            "most_confused": [_to_json(pair) for pair in self.confused()],
            **matrix,
        }


def _to_json(row: ClassScore | Confusion) -> dict[str, Any]:
    """Convert the row for JSON, where the number of images has the key "pictures" for compatibility."""
    return {"pictures" if name == "images" else name: value for name, value in asdict(row).items()}


def evaluate(predictor: Predictor, name: str, options: EvaluationOptions | None = None) -> ClassificationEvaluation:
    """Score a trained network on held-out images: by default those that its run held out.

    Args:
        predictor: the network.
        name: the directory that it came from, or hf:OWNER/NAME.
        options: `split` is not used: the held-out images are the data's own validation or test images, or else drawn
            with the run's seed, so that none is a training image of the run.

    Raises:
        SasaError: no data given, and the directory is not a run.
        DataError: the data has other classes than the network; an image, or with "skip" every one, cannot be read.
    """
    config, options = config_and_options(name, options, TrainConfig)
    _, source = open_splits(str(options.data), config.data.held_out, config.run.seed)
    _check_classes(source.classes, predictor.labels)
    began = time.monotonic()
    batches = evaluation_loader(
        source, predictor.preprocessing, options.batch_size, options.workers or 0, options.on_bad_image
    )
    score = score_batches(predictor.network, batches, len(predictor.labels), predictor.device)
    if not score.count:
        raise DataError(f"none of the {len(source)} held-out images can be read")
    skipped = [source.name(index) for index in score.skipped]
    return ClassificationEvaluation(score, predictor.labels, skipped, time.monotonic() - began)


def _check_classes(found: list[str], known: list[str]) -> None:
    if found == known:
        return
    sides = ("data", found, set(known)), ("network", known, set(found))
    own = {place: [name for name in names if name not in others] for place, names, others in sides}
    parts = [f"only the {place} has {listed(map(printable, names), 3)}" for place, names in own.items() if names]
    raise DataError(
        f"the data has {len(found)} classes, the network knows {len(known)}: "
        f"{' and '.join(parts) or 'their order differs'}"
    )
