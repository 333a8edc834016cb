"""The task of detection: images with boxes, focal loss and box loss, mean average precision."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sasa.data.detection.batch import DetectionBatch, evaluation_batches, training_batches
from sasa.data.detection.open import open_detection_splits
from sasa.data.detection.source import DetectionSource, DetectionSubset
from sasa.data.loader import check_on_bad_image
from sasa.data.sampler import epoch_order
from sasa.draw.annotate import LabelledBoxes
from sasa.draw.charts import Panel, draw_curves, draw_detections_grid, points
from sasa.errors import DataError, UsageError
from sasa.metrics.average_precision import average_precision
from sasa.models import ResNet, RetinaNet, create_model
from sasa.models.boxes import Selection, losses
from sasa.models.create import load_pretrained
from sasa.models.hub import locate
from sasa.models.variants import VARIANTS
from sasa.tasks.classification.predictor import preprocessing_to
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.detection.predictor import Detector, find_all
from sasa.tasks.detection.score import DetectionScore
from sasa.training.processes import gathered
from sasa.training.run_directory import RunFolder
from sasa.training.task import order_of

SHOWN = 8  # images in the grid of what was found
TOLD = 5  # problems in the annotations that are printed; all of them are in problems.txt
SURE = Selection(score=0.3)  # boxes that are drawn


class Detection:
    """Opens the data of a config and makes its network.

    Args:
        config: of the run.
        fabric: Lightning Fabric, launched.
        images: to train on and to score, in place of the config's own.

    Raises:
        DataError, ArgumentError: what is wrong with the data or the network's options.
    """

    def __init__(
        self, config: DetectionConfig, fabric: Any, images: tuple[DetectionSource, DetectionSource] | None = None
    ) -> None:
        self.config, self.fabric, data = config, fabric, config.data
        check_on_bad_image(data.on_bad_image)
        data.preprocessing()  # these two now, so that a mistake in them is told before anything is written
        data.augmentation()
        self.train, self.held_out = images or open_detection_splits(data.source, data.held_out, config.run.seed)
        check_boxes(config.data.source, self.train, "training")
        check_boxes(config.data.source, self.held_out, "held-out")
        self.network = make_detector(config, len(self.train.classes))
        order = order_of(config, fabric, len(self.train))
        self.steps_per_epoch, self.steps = order.steps_per_epoch, order.steps
        self.skipped: set[str] = set()
        sources = (self.train, self.held_out)
        self.problems = list(dict.fromkeys(str(problem) for source in sources for problem in source.problems))
        if fabric.is_global_zero:
            sys.stderr.write(told(self.problems))

    def batches(self, step: int) -> Iterator[DetectionBatch]:
        """The parts of each step that this process goes through, from `step` on, augmented."""
        data, seed = self.config.data, self.config.run.seed
        return training_batches(
            self.train,
            data.preprocessing(),
            data.augmentation(),
            seed,
            order_of(self.config, self.fabric, len(self.train), step),
            data.workers,
            data.on_bad_image,
        )

    def loss(self, model: nn.Module, batch: DetectionBatch, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Focal loss of the classes plus the weighted loss of the boxes."""
        self.skipped.update(self.train.name(index) for index in batch.skipped)
        if not len(batch):
            return self._nothing(model), {"classification": 0, "box": 0}
        batch = batch.to(self.fabric.device, self.config.run.channels_last)
        boxes = [targets.boxes[~targets.crowd] for targets in batch.targets]
        labels = [targets.labels[~targets.crowd] for targets in batch.targets]
        crowds = [targets.boxes[targets.crowd] for targets in batch.targets]
        parts = losses(self.network.config, model(batch.images), boxes, labels, crowds)
        sums = {name: value.item() * len(batch) for name, value in parts._asdict().items()}
        return parts.classification + self.config.recipe.box_weight * parts.box, sums

    def _nothing(self, model: nn.Module) -> Tensor:
        """A loss without gradient, for a part whose images could all not be read: other processes wait for us."""
        side = self.config.data.image_size
        outputs = model(torch.zeros(2, 3, side, side).to(self.fabric.device))
        return 0 * (outputs.logits.sum() + outputs.deltas.sum())

    def names(self, batch: DetectionBatch) -> list[str]:
        """What a person would call the images of a batch."""
        return [self.train.name(index) for index in batch.indices.tolist()]

    def score(self, model: nn.Module) -> DetectionScore:
        """Mean average precision on the held-out images, each seen once over all processes."""
        data, fabric, recipe = self.config.data, self.fabric, self.config.recipe
        batches = evaluation_batches(
            self.held_out,
            data.preprocessing(),
            max(1, recipe.batch_size // (fabric.world_size * recipe.accumulate)),
            data.workers,
            data.on_bad_image,
            fabric.global_rank,
            fabric.world_size,
        )
        results, skipped = find_all(
            model, batches, self.held_out, fabric.device, self.network.config, self.config.run.channels_last
        )
        self.skipped.update(self.held_out.name(index) for index in skipped)
        if sum(gathered(fabric, len(skipped))) == len(self.held_out):
            raise DataError(
                f"none of the {len(self.held_out)} held-out images can be read: {self.held_out.name(0)}, ..."
            )
        found = [each for part in gathered(fabric, results) for each in part]
        return DetectionScore(**vars(average_precision(self.held_out.coco(), found)))

    def save(self, folder: Path) -> None:
        """The network with its labels and preprocessing, as `sasa.create_model` and the commands read it."""
        preprocessing = preprocessing_to(self.config.data.preprocessing())
        self.network.save_pretrained(folder, labels=self.train.classes, preprocessing=preprocessing)

    def summary(self, score: DetectionScore, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Mean average precision at the end, and of the best epoch."""
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

    def draw(self, score: DetectionScore, rows: list[dict[str, Any]], folder: Path) -> None:
        """Curves, and a grid of held-out images with their boxes and those that were found; problems.txt."""
        if self.problems:
            RunFolder(folder).write_text("problems.txt", "".join(f"{problem}\n" for problem in self.problems))
        draw_curves(learning_curves(rows), folder / "curves.png")
        order = epoch_order(len(self.held_out), self.config.run.seed, 0).tolist()
        shown = [index for index in order if self.held_out.name(index) not in self.skipped][:SHOWN]
        detector = Detector(self.network, self.train.classes, self.config.data.preprocessing())
        images = [self.held_out.read(index) for index in shown]
        named = [(self.held_out.name(index), image) for index, image in zip(shown, images, strict=True)]
        found = [
            LabelledBoxes(torch.tensor(d.boxes).view(-1, 4), d.labels, d.scores) for d in detector.detect(named, SURE)
        ]
        draw_detections_grid(
            images, found, [self._truth(index) for index in shown], self.train.classes, folder / "detections.png"
        )

    def _truth(self, index: int) -> LabelledBoxes:
        targets = self.held_out.targets(index)
        return LabelledBoxes(targets.boxes, [self.train.classes[label] for label in targets.labels.tolist()])


def learning_curves(rows: list[dict[str, Any]]) -> list[Panel]:
    """Make the curves of metrics.csv: training loss with its parts, and average precision."""
    parts = {"sum": "train_loss", "classification": "train_classification", "boxes": "train_box"}
    precisions = {"IoU 0.5 to 0.95": "held_out_map", "IoU 0.5": "held_out_map50"}
    return [
        Panel("training loss", {label: points(rows, c) for label, c in parts.items()}, logarithmic=True),
        Panel("average precision, held out, %", {label: points(rows, c, 100) for label, c in precisions.items()}),
    ]


def check_boxes(data: str, source: DetectionSource, what: str) -> None:
    """See to it that there is something to learn, or to score against: now, not after an epoch.

    Raises:
        DataError: no image has a box, crowds apart.
    """
    if not any((~source.targets(index).crowd).any() for index in range(len(source))):
        raise DataError(f"{data}: none of the {len(source)} {what} images has a box (crowds do not count)")


def told(problems: list[str]) -> str:
    """The first problems in the annotations, a line each; "" where there is none."""
    lines = problems[:TOLD]
    if len(problems) > TOLD:
        lines = [*lines, f"and {len(problems) - TOLD} more problems: the finished run has all in problems.txt"]
    return "".join(f"annotations: {line}\n" for line in lines)


def make_detector(config: DetectionConfig, num_classes: int) -> RetinaNet:
    """The network of the config for the data's classes, seeded; its backbone from a classifier's run if one is named.

    Raises:
        UsageError: the model is no detector, or has another number of classes.
        SasaError: the backbone's weights cannot be read, or do not fit.
    """
    options = {key: value for key, value in config.model.items() if key != "name"}
    if options.get("num_classes", num_classes) != num_classes:
        raise UsageError(f"model.num_classes is {options['num_classes']}, but the data has {num_classes} classes")
    if options.get("in_chans", 3) != 3:
        raise UsageError(f"model.in_chans is {options['in_chans']}, but detection reads images in 3 colours")
    name = str(config.model["name"])
    no_detector = UsageError(f"{name} is no detector: detectors are called retinanet_..., see sasa models")
    if name in VARIANTS:  # before its options are looked at: a classifier knows few of them
        raise no_detector
    torch.manual_seed(config.run.seed)
    network = create_model(name, **{**options, "num_classes": num_classes})
    if not isinstance(network, RetinaNet):
        raise no_detector
    if config.recipe.backbone:
        classifier = load_pretrained(locate(config.recipe.backbone))
        if not isinstance(classifier, ResNet):
            raise UsageError(f"recipe.backbone {config.recipe.backbone} is no classifier")
        network.load_backbone(classifier)
    network.set_grad_checkpointing(config.run.gradient_checkpointing)
    if config.run.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network
