"""Detectors whose outputs are tensors: the raw maps, or boxes after non-maximum suppression.

Shapes: B batch, A anchors of an image, K classes, M candidates and N boxes of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sasa.models import RetinaNet
from sasa.models.boxes import SCORED, Selection, anchors, coder


class RawMaps(nn.Module):
    """A detector with two outputs, which `sasa.models.boxes` turns into boxes: logits (B, A, K), deltas (B, A, 4)."""

    outputs = ("logits", "deltas")

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits, deltas."""
        logits, deltas, _ = self.network(images)
        return logits, deltas


class Candidates(NamedTuple):
    """Boxes (B, M, 4) in pixels, their scores and labels (B, M)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class FoundBoxes(nn.Module):
    """A detector with boxes as its outputs, as `sasa.models.boxes.select` finds them, in tensors of one shape.

    Args:
        network: the detector.
        selection: rules by which boxes are kept; `most` is N.

    Shape:
        (B, C, H, W) -> boxes (B, N, 4), (x1, y1, x2, y2) in pixels of the input; scores (B, N), best first; labels
        (B, N), int64. Places without a box have score 0 and label -1.
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, network: RetinaNet, selection: Selection = SCORED) -> None:
        super().__init__()
        self.network, self.selection = network, selection

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> boxes, scores, labels."""
        size = images.shape[2], images.shape[3]
        boxes, scores, labels = self._candidates(images, size)
        kept = torch.where(_survivors(boxes, scores, labels, size, self.selection.overlap), scores, 0.0)
        scores, order = kept.topk(min(self.selection.most, kept.shape[1]))
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        labels = torch.where(scores > 0, labels.gather(1, order), -1)
        return torch.where(scores[..., None] > 0, boxes, 0.0), scores, labels

    def _candidates(self, images: Tensor, size: tuple[int, int]) -> Candidates:
        """The best pairs of anchor and class of each level; those that count for nothing have score 0."""
        logits, deltas, sizes = self.network(images)
        levels = anchors(self.network.config, sizes, images.device)
        lengths = [len(level) for level in levels]
        parts = zip(levels, logits.float().split(lengths, 1), deltas.float().split(lengths, 1), strict=True)
        found = [self._best_of_level(*part) for part in parts]
        boxes, scores, labels = (torch.cat(part, 1) for part in zip(*found, strict=True))
        height, width = size
        boxes = torch.stack([boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)], -1).flatten(2)
        counts = (scores > self.selection.score) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        return Candidates(boxes, torch.where(counts, scores, 0.0), labels)

    def _best_of_level(self, level: Tensor, logits: Tensor, deltas: Tensor) -> Candidates:
        classes = logits.shape[2]
        pairs = logits.sigmoid().flatten(1)
        scores, places = pairs.topk(min(self.selection.per_level, pairs.shape[1]))
        anchor = places // classes
        chosen = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = coder().decode_single(chosen.flatten(0, 1), level[anchor.flatten()])
        return Candidates(boxes.reshape(chosen.shape), scores, places % classes)


def _survivors(boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int], overlap: float) -> Tensor:
    """(B, M): whether non-maximum suppression among the boxes of the same image and class keeps each box.

    All images and classes together: boxes move right by a width for each class, and down by a height for each image,
    so that those of different ones do not overlap.
    """
    from torchvision.ops import nms

    batch, count = scores.shape
    height, width = size
    right = labels * (width + 1)
    down = torch.arange(batch, device=boxes.device)[:, None].expand(-1, count) * (height + 1)
    moved = boxes + torch.stack([right, down, right, down], -1)
    kept = nms(moved.flatten(0, 1), scores.flatten(), overlap)
    survives = torch.zeros(batch * count, dtype=torch.bool, device=boxes.device)
    return survives.index_fill(0, kept, True).reshape(batch, count)
