"""Accuracy and loss of a network over held-out pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Score:
    """Over all pictures: mean cross-entropy, share of right first answers, and of right ones among five."""

    loss: float
    top1: float
    top5: float
    count: int


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Score:
    """Score the model in eval mode; its mode is put back afterwards."""
    training = model.training
    model.eval()
    loss, top1, top5, count = 0.0, 0, 0, 0
    for pictures, labels in batches:
        labels = labels.to(device)
        logits = model(pictures.to(device)).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top1 += int(best[:, 0].sum())
        top5 += int(best.sum())
        count += len(labels)
    model.train(training)
    return Score(loss / max(1, count), top1 / max(1, count), top5 / max(1, count), count)
