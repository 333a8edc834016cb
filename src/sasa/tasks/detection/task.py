"""The task of detection: images with boxes, focal loss and box loss, mean average precision."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sasa.data.detection.batch import DetectionBatch, evaluation_batches, training_batches
from sasa.data.detection.open import open_detection_splits
from sasa.data.detection.source import DetectionSource, DetectionSubset
from sasa.data.detection.transforms import SMALLEST_SIDE
from sasa.draw.annotate import LabelledBoxes
from sasa.draw.charts import Panel, draw_curves, draw_detections_grid, points
from sasa.errors import DataError, UsageError
from sasa.files import write_file
from sasa.metrics.average_precision import average_precision
from sasa.models import ResNet, RetinaNet, create_model
from sasa.models.boxes import Selection, losses
from sasa.models.config import VARIANTS
from sasa.models.create import load_pretrained
from sasa.models.hub import locate
from sasa.tasks.base import network_options, set_up
from sasa.tasks.detection.config import DetectionConfig, DetectionData
from sasa.tasks.detection.evaluation import DetectionScore, find_all
from sasa.tasks.detection.predictor import Detector
from sasa.training.processes import gather
from sasa.training.task import Task

SHOWN = 8  # images in the grid of detections
MOST_PRINTED = 5  # problems in the annotations; problems.txt lists all of them
DRAWN = Selection(score=0.3)  # boxes in the grid of detections


class Detection(Task):
    """Images with boxes of a config, or `splits` (training, held-out images) in place of its data; its network.

    Raises:
        DataError, ArgumentError: invalid data or options of the network.
    """

    LOADER = staticmethod(training_batches)

    def __init__(
        self, config: DetectionConfig, fabric: Any, splits: tuple[DetectionSource, DetectionSource] | None = None
    ) -> None:
        data = config.data
        train, held_out = splits or open_detection_splits(data.source, data.held_out, config.run.seed)
        check_boxes(data.source, train, "training")
        check_boxes(data.source, held_out, "held-out")
        check_box_sizes(data, train)
        super().__init__(config, fabric, (train, held_out), make_detector(config, len(train.classes)))
        self.problems = list(dict.fromkeys(str(p) for source in (train, held_out) for p in source.problems))
        if fabric.is_global_zero:
            sys.stderr.write(first_problems(self.problems))

    def loss(self, model: nn.Module, batch: DetectionBatch, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Return the focal loss of the classes plus the weighted loss of the boxes."""
        self.skipped.update(self.train.name(index) for index in batch.skipped)
        if not len(batch):
            return self._zero_loss(model), {"classification": 0, "box": 0}
        batch = batch.to(self.fabric.device, self.config.run.channels_last)
        boxes = [targets.boxes[~targets.crowd] for targets in batch.targets]
        labels = [targets.labels[~targets.crowd] for targets in batch.targets]
        crowds = [targets.boxes[targets.crowd] for targets in batch.targets]
        parts = losses(self.network.config, model(batch.images), boxes, labels, crowds)
        sums = {name: value.item() * len(batch) for name, value in parts._asdict().items()}
        return parts.classification + self.config.recipe.box_weight * parts.box, sums

    def _zero_loss(self, model: nn.Module) -> Tensor:
        """Return a loss without gradient, for a batch in which no image could be read: other processes wait for it."""
        side = self.config.data.image_size
        outputs = model(torch.zeros(2, 3, side, side).to(self.fabric.device))
        return 0 * (outputs.logits.sum() + outputs.deltas.sum())

    def describe(self, images: DetectionSource, index: int) -> str:
        """Return the file name in the annotations, and the boxes with their labels."""
        targets = images.targets(index)
        boxes = [[round(side, 1) for side in box] for box in targets.boxes.tolist()]
        return f"{images.file_name(index)}: {targets.labels.tolist()} {boxes}"

    def score(self, model: nn.Module) -> DetectionScore:
        """Compute the mean average precision on the held-out images, each seen once over all processes."""
        data, fabric = self.config.data, self.fabric
        read = data.preprocessing(), self.part, data.workers, data.on_bad_image
        batches = evaluation_batches(self.held_out, *read, fabric.global_rank, fabric.world_size)
        results, skipped = find_all(
            model, batches, self.held_out, fabric.device, self.network.config, self.config.run.channels_last
        )
        self.skipped.update(self.held_out.name(index) for index in skipped)
        if sum(gather(fabric, len(skipped))) == len(self.held_out):
            raise DataError(
                f"none of the {len(self.held_out)} held-out images can be read: {self.held_out.name(0)}, ..."
            )
        found = [entry for part in gather(fabric, results) for entry in part]
        return DetectionScore(**vars(average_precision(self.held_out.coco(), found)))

    def summary(self, score: DetectionScore, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the mean average precision at the end, and of the best epoch."""
        best = max(rows, key=lambda row: (row["held_out_map"], row["held_out_map50"]))
        return {
            **score.row(),
            "held_out_pictures": score.images,
            "held_out_drawn": isinstance(self.held_out, DetectionSubset),
            "best_map": best["held_out_map"],
            "best_map50": best["held_out_map50"],
            "best_epoch": best["epoch"],
            "problems_in_annotations": len(self.problems),
        }

    def draw(self, score: DetectionScore, rows: list[dict[str, Any]], directory: Path) -> None:
        """Draw curves, and a grid of held-out images with the true and the detected boxes; write problems.txt."""
        if self.problems:
            write_file(directory / "problems.txt", "".join(f"{problem}\n" for problem in self.problems))
        draw_curves(learning_curves(rows), directory / "curves.png")
        shown = self.sample(SHOWN)
        classes = self.train.classes
        detector = Detector(self.network, classes, self.config.data.preprocessing())
        images = [self.held_out.read(index) for index in shown]
        named = [(self.held_out.name(index), image) for index, image in zip(shown, images, strict=True)]
        found = [one.drawn() for one in detector.predict(named, DRAWN)]
        targets = [self.held_out.targets(index) for index in shown]
        truth = [LabelledBoxes(one.boxes, [classes[label] for label in one.labels.tolist()]) for one in targets]
        draw_detections_grid(images, found, truth, classes, directory / "detections.png")


def learning_curves(rows: list[dict[str, Any]]) -> list[Panel]:
    """Make the curves of metrics.csv: training loss with its parts, and average precision."""
    parts = {"sum": "train_loss", "classification": "train_classification", "boxes": "train_box"}
    precisions = {"IoU 0.5 to 0.95": "held_out_map", "IoU 0.5": "held_out_map50", "IoU 0.5, last step": "last_map50"}
    return [
        Panel("training loss", {label: points(rows, c) for label, c in parts.items()}, logarithmic=True),
        Panel("average precision, held out, %", {label: points(rows, c, 100) for label, c in precisions.items()}),
    ]


def check_boxes(data: str, source: DetectionSource, split: str) -> None:
    """Check, before the first epoch, that a split has a box to learn or to score.

    Raises:
        DataError: no image has one (crowds do not count).
    """
    if not any((~source.targets(index).crowd).any() for index in range(len(source))):
        raise DataError(f"{data}: none of the {len(source)} {split} images has a box (crowds do not count)")


def check_box_sizes(data: DetectionData, source: DetectionSource) -> None:
    """Check, before the first epoch, that training enlarges some image enough for the network to see a box in it.

    Raises:
        DataError: all boxes are smaller than training keeps, a pixel.
    """
    side = data.image_size * data.jitter_max
    for index in range(len(source)):
        targets, scale = source.targets(index), side / max(source.size(index))
        sides = scale * (targets.boxes[:, 2:] - targets.boxes[:, :2])
        if ((sides >= SMALLEST_SIDE).all(1) & ~targets.crowd).any():
            return
    raise DataError(
        f"{data.source}: no box of the {len(source)} training images is {SMALLEST_SIDE:g} pixel high and wide when the "
        f"images are resized to data.image_size ({data.image_size}): use a larger one"
    )


def first_problems(problems: list[str]) -> str:
    """Return the first problems in the annotations, a line each; empty if there are none."""
    lines = problems[:MOST_PRINTED]
    if len(problems) > MOST_PRINTED:
        rest = len(problems) - MOST_PRINTED
        lines = [*lines, f"and {rest} more problems: the finished run lists all of them in problems.txt"]
    return "".join(f"annotations: {line}\n" for line in lines)


def make_detector(config: DetectionConfig, num_classes: int) -> RetinaNet:
    """Make the config's network for the data's classes, seeded; the backbone starts from `recipe.backbone` if set.

    Raises:
        UsageError: the model is not a detector, or has another number of classes.
        SasaError: the backbone's weights cannot be read, or do not fit.
    """
    options = network_options(config, num_classes)
    if options.get("in_chans", 3) != 3:
        raise UsageError(f"model.in_chans is {options['in_chans']}, but detection reads images in 3 colours")
    name = str(config.model["name"])
    wrong_network = UsageError(f"{name} is not a detector: detectors are called retinanet_..., see sasa models")
    if name in VARIANTS:  # before its options are checked: a classifier does not know those of a detector
        raise wrong_network
    torch.manual_seed(config.run.seed)
    network = create_model(name, **options)
    if not isinstance(network, RetinaNet):
        raise wrong_network
    if config.recipe.backbone:
        classifier = load_pretrained(locate(config.recipe.backbone))
        if not isinstance(classifier, ResNet):
            raise UsageError(f"recipe.backbone {config.recipe.backbone} is not a classifier")
        network.load_backbone(classifier)
    set_up(network, config)
    return network
