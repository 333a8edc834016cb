"""Losses and boxes from RetinaNet's outputs, with torchvision's anchors, matcher, coder, losses and NMS.

Shapes: B batch, A anchors of an image, K classes, N boxes of an image. Boxes are (x1, y1, x2, y2) in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sasa.models.retinanet import Outputs
from sasa.models.retinanet_config import ANCHORS, RetinaNetConfig

ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors
OBJECT_IOU, BACKGROUND_IOU = 0.5, 0.4  # an anchor with at least the first is an object; below the second, background
BETA = 1 / 9  # where the box loss changes from quadratic to linear
CROWD_FRACTION = 0.5  # a background anchor with more than this fraction inside a crowd region is ignored
IGNORED = -2  # torchvision's Matcher.BETWEEN_THRESHOLDS: an anchor that is neither object nor background


class Losses(NamedTuple):
    """Scalars: focal loss of all anchors, smooth L1 loss of the boxes; both divided by the number of object anchors."""

    classification: Tensor
    box: Tensor


@dataclass(frozen=True)
class ScoredBoxes:
    """Boxes of one image, best first, (N, 4) in pixels; labels (N,), int64; scores (N,), 0 to 1."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Selection:
    """Thresholds that decide which boxes are kept.

    Args:
        score: minimum score.
        per_level: maximum number of candidates of each level.
        overlap: IoU above which the weaker of two boxes of one class is removed.
        most: maximum number of boxes of an image.
    """

    score: float = 0.05
    per_level: int = 1000
    overlap: float = 0.5
    most: int = 100


SCORED = Selection()  # COCO's metrics need many boxes, including weak ones


def anchors(config: RetinaNetConfig, sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
    """Return the anchors of each level, (h * w * anchors of a position, 4), centred on the positions of its map.

    Args:
        config: of the detector.
        sizes: (h, w) of each level's map.
        device: of the anchors.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    octaves = ANCHORS[config.anchors]
    sides = tuple(
        tuple(config.anchor_scale * stride * 2 ** (n / octaves) for n in range(octaves)) for stride in config.strides
    )
    generator = AnchorGenerator(sides, (ASPECT_RATIOS,) * len(sides))  # pyright: ignore[reportArgumentType]
    generator.set_cell_anchors(torch.float32, device)
    steps = [[torch.tensor(stride, device=device)] * 2 for stride in config.strides]
    grids = generator.grid_anchors([list(size) for size in sizes], steps)
    return [grid + stride / 2 for grid, stride in zip(grids, config.strides, strict=True)]


def losses(
    config: RetinaNetConfig,
    outputs: Outputs,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    crowds: Sequence[Tensor],
) -> Losses:
    """Compute the focal loss of the classes and the smooth L1 loss of the boxes.

    Args:
        config: of the detector.
        outputs: for B images.
        boxes: for each image (N, 4).
        labels: for each image (N,), int64.
        crowds: for each image (M, 4), regions in which background anchors are ignored.
    """
    all_anchors = torch.cat(anchors(config, outputs.sizes, outputs.logits.device))
    logits, deltas = outputs.logits.float(), outputs.deltas.float()
    wanted = torch.zeros_like(deltas)
    objects = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
    focal = logits[:0].sum()
    for n, (own, own_labels, crowd) in enumerate(zip(boxes, labels, crowds, strict=True)):
        matches = match(all_anchors, own, crowd)
        objects[n] = matches >= 0
        wanted[n, objects[n]] = coder().encode_single(own[matches[objects[n]]], all_anchors[objects[n]])
        # Computed again in the backward pass: many tensors of (A, K), which with 1,000 classes would take gigabytes.
        focal = focal + checkpoint(
            _focal, logits[n], matches, own_labels, use_reentrant=False, preserve_rng_state=False
        )
    count = objects.sum().clamp_min(1)
    box = F.smooth_l1_loss(deltas[objects], wanted[objects], reduction="sum", beta=BETA)
    return Losses(focal / count, box / count)


def _focal(logits: Tensor, matches: Tensor, labels: Tensor) -> Tensor:
    """Sum the focal loss of one image's logits (A, K) over the anchors that are not ignored."""
    from torchvision.ops import sigmoid_focal_loss

    objects, targets = matches >= 0, torch.zeros_like(logits)
    targets[objects, labels[matches[objects]]] = 1
    return sigmoid_focal_loss(logits, targets, reduction="none")[matches != IGNORED].sum()


def match(all_anchors: Tensor, boxes: Tensor, crowd: Tensor) -> Tensor:
    """Match anchors to boxes: (A,), the index of each anchor's box, -1 for background, `IGNORED` for neither.

    Args:
        all_anchors: (A, 4).
        boxes: (N, 4).
        crowd: (M, 4), regions in which background anchors are ignored.
    """
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    matches = torch.full((len(all_anchors),), -1, dtype=torch.int64, device=all_anchors.device)
    overlaps = box_iou(boxes, all_anchors)
    # For every box the matcher takes the anchors of highest IoU, even if that is 0: leave out boxes without overlap.
    touched = (overlaps > 0).any(1).nonzero()[:, 0]
    if len(touched):
        matches = Matcher(OBJECT_IOU, BACKGROUND_IOU, allow_low_quality_matches=True)(overlaps[touched])
        matches = torch.where(matches >= 0, touched[matches.clamp_min(0)], matches)
    if len(crowd):
        matches[(matches == -1) & (_covered(all_anchors, crowd) > CROWD_FRACTION)] = IGNORED
    return matches


def _covered(all_anchors: Tensor, crowd: Tensor) -> Tensor:
    """(A,): the largest fraction of each anchor inside one of the regions."""
    from torchvision.ops import box_area

    low = torch.maximum(all_anchors[:, None, :2], crowd[None, :, :2])
    high = torch.minimum(all_anchors[:, None, 2:], crowd[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    return (shared / box_area(all_anchors)[:, None]).amax(1)


def select(
    config: RetinaNetConfig, outputs: Outputs, sizes: Sequence[tuple[int, int]], selection: Selection = SCORED
) -> list[ScoredBoxes]:
    """Select the boxes of each image, in pixels of the network's input.

    Args:
        config: of the detector.
        outputs: for B images.
        sizes: (height, width) of each image without its padding; boxes are clipped to it.
        selection: rules by which boxes are kept.
    """
    levels = anchors(config, outputs.sizes, outputs.logits.device)
    lengths = [len(level) for level in levels]
    logits, deltas = outputs.logits.float().split(lengths, 1), outputs.deltas.float().split(lengths, 1)
    return [
        _select_one(levels, [x[n] for x in logits], [x[n] for x in deltas], size, selection)
        for n, size in enumerate(sizes)
    ]


def _select_one(
    levels: list[Tensor], logits: list[Tensor], deltas: list[Tensor], size: tuple[int, int], selection: Selection
) -> ScoredBoxes:
    from torchvision.ops import batched_nms, clip_boxes_to_image

    parts = [_best_of_level(*level, selection) for level in zip(levels, logits, deltas, strict=True)]
    boxes, labels, scores = (torch.cat(part) for part in zip(*parts, strict=True))
    boxes = clip_boxes_to_image(boxes, size)
    seen = (boxes[:, 2:] > boxes[:, :2]).all(1)  # boxes in the padding are empty after clipping
    boxes, labels, scores = boxes[seen], labels[seen], scores[seen]
    kept = batched_nms(boxes, scores, labels, selection.overlap)[: selection.most]
    return ScoredBoxes(boxes[kept], labels[kept], scores[kept])


def _best_of_level(
    level: Tensor, logits: Tensor, deltas: Tensor, selection: Selection
) -> tuple[Tensor, Tensor, Tensor]:
    """(boxes, labels, scores) of the best pairs of anchor and class of a level."""
    scores = logits.sigmoid().flatten()
    good = (scores > selection.score).nonzero()[:, 0]
    best, order = scores[good].topk(min(selection.per_level, len(good)))
    places = good[order]
    anchor, label = places // logits.shape[1], places % logits.shape[1]
    return coder().decode_single(deltas[anchor], level[anchor]), label, best


def coder() -> Any:
    """Return torchvision's coder of boxes as deltas from anchors."""
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
