"""Accuracy and loss of a network over held-out images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.data.classification.batch import Batch


@dataclass(frozen=True)
class Score:
    """What a network makes of held-out images.

    Args:
        loss: mean cross-entropy.
        top1, top5: share of images whose class is the first answer, or among the first five.
        count: images.
        confusion: (classes, classes), int64, on the CPU: how often class `row` was given the answer `column`.
        skipped: places in the source of images that could not be read.
    """

    loss: float
    top1: float
    top5: float
    count: int
    confusion: Tensor
    skipped: list[int] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """What metrics.csv holds of it."""
        return {"held_out_loss": round(self.loss, 6), "held_out_top1": round(self.top1, 6)}

    @property
    def quality(self) -> tuple[float, float]:
        """What the best checkpoint is chosen by, more is better: top-1, and among equals the loss."""
        return self.top1, -self.loss


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    device: torch.device,
    channels_last: bool = False,
    sum_over_processes: Callable[[Tensor], Tensor] | None = None,
) -> Score:
    """Score the model in eval mode; its mode is put back afterwards.

    Args:
        model: (B, channels, H, W) -> (B, num_classes).
        batches: of held-out images; with many processes the part of this one.
        num_classes: what the model tells apart.
        device: where the model is.
        channels_last: the images' layout.
        sum_over_processes: the sum of a tensor over all processes, where there are many.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)  # loss, right first answers, right ones among five, images
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64)
    skipped: list[int] = []
    for batch in batches:
        skipped += batch.skipped
        if len(batch):
            batch = batch.to(device, channels_last)
            sums += _sums(model(batch.images).float(), batch.labels, confusion)
    model.train(training)
    if sum_over_processes:
        sums, confusion = sum_over_processes(sums), sum_over_processes(confusion)
    loss, top1, top5, count = sums.tolist()
    seen = max(1.0, count)
    return Score(loss / seen, top1 / seen, top5 / seen, int(count), confusion.view(num_classes, -1), skipped)


def _sums(logits: Tensor, labels: Tensor, confusion: Tensor) -> Any:
    """[loss, right, right among five, images] of a batch, on the CPU; counts it in the flat `confusion`."""
    answers = logits.topk(min(5, logits.shape[1])).indices
    right = answers == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    places = (labels * logits.shape[1] + answers[:, 0]).cpu()
    confusion += torch.bincount(places, minlength=len(confusion))
    values = [loss.item(), right[:, 0].sum().item(), right.sum().item(), len(labels)]
    return torch.tensor(values, dtype=torch.float64)
