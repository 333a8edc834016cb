"""How much a trained detector's boxes change when its images stand in a batch with larger ones, padded with zeros.

    python benchmarks/padding.py --model runs/attention/best --data DIR [--split val] [--padding 32 96]

Prints average precision without the padding and with it, and of the boxes with a score of at least 0.3 the share that
is found again (same class, overlap of at least 0.5), and of these how far the scores move and how much they overlap.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.data.detection.open import open_detection_split
from sasa.data.detection.source import DetectionSource
from sasa.metrics.average_precision import average_precision
from sasa.models.boxes import Boxes
from sasa.speed.report import markdown
from sasa.tasks.detection.evaluation import coco_results
from sasa.tasks.detection.predictor import Detector, find

SCORE, OVERLAP = 0.3, 0.5


def found_by(detector: Detector, source: DetectionSource, padding: int) -> list[Boxes]:
    """Boxes of every image, padded to a multiple of 32 as always, and by so many pixels more on two sides."""
    found = []
    for index in range(len(source)):
        image = source.read(index)
        pixels = detector.preprocessing.evaluation(image)
        height, width = pixels.shape[1:]
        padded = F.pad(pixels[None], (0, -width % 32 + padding, 0, -height % 32 + padding))
        size = [(height, width)]
        found += find(detector.network, padded, size, [(image.height, image.width)], detector.network.config)
    return found


def precision(source: DetectionSource, found: list[Boxes]) -> tuple[float, float]:
    """mAP and mAP 50, in %."""
    results = [
        line
        for index, boxes in enumerate(found)
        for line in coco_results(boxes, source.image_id(index), source.category_ids)
    ]
    row = average_precision(source.coco(), results).row()
    return 100 * row["held_out_map"], 100 * row["held_out_map50"]


def found_again(before: Boxes, after: Boxes) -> Tensor:
    """(N, 3) for the N sure boxes of `before`: 1 if found again, then the change of the score, and the overlap."""
    from torchvision.ops import box_iou

    sure = before.scores >= SCORE
    boxes, labels, scores = before.boxes[sure], before.labels[sure], before.scores[sure]
    if not len(boxes) or not len(after.boxes):
        return torch.zeros(len(boxes), 3)
    overlaps = box_iou(boxes, after.boxes) * (labels[:, None] == after.labels)
    best, which = overlaps.max(1)
    return torch.stack(((best >= OVERLAP).float(), (after.scores[which] - scores).abs(), best), 1)


def main() -> None:
    """Print a table with a line for each padding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--padding", type=int, nargs="+", default=[32, 96])
    words = parser.parse_args()
    detector = Detector.load(words.model)
    source = open_detection_split(words.data, words.split, classes=detector.labels)
    alone = found_by(detector, source, 0)
    whole, half = precision(source, alone)
    lines = [["padded by, pixels", "mAP %", "mAP 50 %", "found again %", "scores move by", "overlap"]]
    lines.append(["0", f"{whole:.2f}", f"{half:.2f}", "", "", ""])
    sure = sum(int((boxes.scores >= SCORE).sum()) for boxes in alone)
    for padding in words.padding:
        padded = found_by(detector, source, padding)
        whole, half = precision(source, padded)
        compared = torch.cat([found_again(a, b) for a, b in zip(alone, padded, strict=True)])
        again = compared[:, 0].mean().item()
        _, moved, overlap = compared[compared[:, 0] > 0].mean(0).tolist()
        lines.append(
            [str(padding), f"{whole:.2f}", f"{half:.2f}", f"{100 * again:.1f}", f"{moved:.3f}", f"{overlap:.3f}"]
        )
    print(f"{detector.network.name}, {len(source)} images, {sure} boxes\n\n{markdown(lines)}")


if __name__ == "__main__":
    main()
