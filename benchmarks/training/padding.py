"""Sensitivity of a trained detector to zero padding, as in a batch with larger images.

    python -m benchmarks.training.padding --model runs/attention/best --data DIR [--split val] [--padding 32 96]

Prints average precision without and with padding; the share of the boxes with a score of at least 0.3 that is found
again (same class, IoU of at least 0.5); and for those boxes the mean change of the score and the mean IoU.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.data.detection.open import open_detection_split
from sasa.data.detection.source import DetectionSource
from sasa.markdown import markdown_table
from sasa.metrics.average_precision import average_precision
from sasa.models.boxes import ScoredBoxes
from sasa.tasks.detection.evaluation import coco_results
from sasa.tasks.detection.predictor import Detector, find

SCORE, OVERLAP = 0.3, 0.5


def found_by(detector: Detector, source: DetectionSource, padding: int) -> list[ScoredBoxes]:
    """Detect boxes in every image, padded at right and bottom to a multiple of 32 and by `padding` pixels more."""
    found = []
    for index in range(len(source)):
        image = source.read(index)
        pixels = detector.preprocessing.evaluation(image)
        height, width = pixels.shape[1:]
        padded = F.pad(pixels[None], (0, -width % 32 + padding, 0, -height % 32 + padding))
        size = [(height, width)]
        found += find(detector.network, padded, size, [(image.height, image.width)], detector.network.config)
    return found


def precision(source: DetectionSource, found: list[ScoredBoxes]) -> tuple[float, float]:
    """Compute mAP and mAP 50, in %."""
    results = [
        line
        for index, boxes in enumerate(found)
        for line in coco_results(boxes, source.image_id(index), source.category_ids)
    ]
    score = average_precision(source.coco(), results)
    return 100 * score.map, 100 * score.map50


def found_again(before: ScoredBoxes, after: ScoredBoxes) -> Tensor:
    """Compare boxes: (N, 3) for the N confident boxes of `before`: 1 if found again, change of the score, IoU."""
    from torchvision.ops import box_iou

    confident = before.scores >= SCORE
    boxes, labels, scores = before.boxes[confident], before.labels[confident], before.scores[confident]
    if not len(boxes) or not len(after.boxes):
        return torch.zeros(len(boxes), 3)
    overlaps = box_iou(boxes, after.boxes) * (labels[:, None] == after.labels)
    best, which = overlaps.max(1)
    return torch.stack(((best >= OVERLAP).float(), (after.scores[which] - scores).abs(), best), 1)


def main() -> None:
    """Print a table with a row for each padding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--padding", type=int, nargs="+", default=[32, 96])
    words = parser.parse_args()
    detector = Detector.load(words.model)
    source = open_detection_split(words.data, words.split, classes=detector.labels)
    alone = found_by(detector, source, 0)
    whole, half = precision(source, alone)
    lines = [["padded by, pixels", "mAP %", "mAP 50 %", "found again %", "change of score", "IoU"]]
    lines.append(["0", f"{whole:.2f}", f"{half:.2f}", "", "", ""])
    confident = sum(int((boxes.scores >= SCORE).sum()) for boxes in alone)
    for padding in words.padding:
        padded = found_by(detector, source, padding)
        whole, half = precision(source, padded)
        compared = torch.cat([found_again(a, b) for a, b in zip(alone, padded, strict=True)])
        again = compared[:, 0].mean().item()
        _, moved, overlap = compared[compared[:, 0] > 0].mean(0).tolist()
        lines.append(
            [str(padding), f"{whole:.2f}", f"{half:.2f}", f"{100 * again:.1f}", f"{moved:.3f}", f"{overlap:.3f}"]
        )
    print(f"{detector.network.name}, {len(source)} images, {confident} boxes\n\n{markdown_table(lines)}")


if __name__ == "__main__":
    main()
