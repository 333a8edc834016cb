"""The training loop, on Lightning Fabric. One integer, `step`, is its whole state; everything else follows from it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.data.loader import EvaluationPictures, TrainingPictures, evaluation_loader, training_loader
from sasa.data.sampler import EpochBatches, epoch_order, mix
from sasa.data.sources import Source, Subset, open_splits
from sasa.errors import DivergedError, UsageError
from sasa.models import ResNet, create_model
from sasa.training.config import TrainConfig
from sasa.training.evaluate import Score, evaluate
from sasa.training.optim import make_optimizer, schedule
from sasa.training.progress import Progress
from sasa.training.run_folder import RunFolder
from sasa.training.signals import StoppedError, StopRequest


@dataclass
class Totals:
    """Sums over the steps of the current epoch."""

    loss: float = 0.0
    right: int = 0
    count: int = 0
    seconds: float = 0.0


@dataclass
class Trainer:
    """A run in memory: the parts, and where it stands.

    Made by `Trainer.start`; `run` goes from `step` to the end.
    """

    config: TrainConfig
    fabric: Any
    model: nn.Module
    network: ResNet
    optimizer: Any
    train: Source
    held_out: Source
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, config: TrainConfig) -> "Trainer":
        """Open the data, make the network and the optimizer, seeded.

        Raises:
            DataError, ArgumentError: what is wrong with the data or the network's options.
        """
        train, held_out = open_training_data(config)
        network = make_network(config, len(train.classes))
        fabric = make_fabric(config)
        recipe = config.recipe
        optimizer = make_optimizer(network, recipe.learning_rate, recipe.momentum, recipe.weight_decay)
        model, optimizer = fabric.setup(network, optimizer)
        return cls(config, fabric, model, network, optimizer, train, held_out)

    @property
    def batches(self) -> EpochBatches:
        """The batches from the current step on."""
        recipe = self.config.recipe
        return EpochBatches(len(self.train), recipe.batch_size, recipe.epochs, self.config.run.seed, self.step)

    def run(self, folder: RunFolder, progress: Progress) -> Score:
        """Train to the end; save on the way; return the score on the held-out pictures.

        Raises:
            StoppedError: after SIGINT or SIGTERM, having saved.
            DivergedError: the loss is not finite; the last checkpoint stays.
        """
        data = self.config.data
        pictures = TrainingPictures(self.train, data.preprocessing(), data.augmentation(), self.config.run.seed)
        batches = self.batches
        per_epoch, every = batches.steps_per_epoch, self.config.run.checkpoint_steps
        self.model.train()
        with StopRequest() as stop:
            for tensors, labels in training_loader(pictures, batches, data.workers):
                loss = self.train_step(tensors, labels, per_epoch)
                progress.step(self.step, self.step % per_epoch or per_epoch, loss)
                if self.step % per_epoch == 0:
                    self.end_epoch(self.step // per_epoch)
                    folder.write_metrics(self.rows)
                    progress.epoch(self.rows[-1])
                if self.step % (every or per_epoch) == 0 or stop.signal_number:
                    folder.save_checkpoint(self.state())
                if stop.signal_number and self.step < per_epoch * self.config.recipe.epochs:
                    sentence = f"stopped at step {self.step}, saved; go on with: sasa train --resume {folder.path}"
                    raise StoppedError(sentence, stop.signal_number)
        return self.score()

    def train_step(self, tensors: Tensor, labels: Tensor, per_epoch: int) -> float:
        """One step of the optimizer; the batch's mean loss."""
        recipe, began = self.config.recipe, time.perf_counter()
        torch.manual_seed(mix(self.config.run.seed, 1, self.step))  # dropout: a function of the step
        factor = schedule(self.step, per_epoch * recipe.epochs, recipe.warmup_epochs * per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        tensors, labels = self.to_device(tensors), labels.to(self.fabric.device)
        logits = self.model(tensors)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss became {value} at step {self.step} (learning rate "
                f"{recipe.learning_rate * factor:.3g}); lower recipe.learning_rate or set recipe.clip_grad_norm"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if recipe.clip_grad_norm:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=recipe.clip_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.totals.loss += value * len(labels)
        self.totals.right += int((logits.argmax(1) == labels).sum())
        self.totals.count += len(labels)
        self.totals.seconds += time.perf_counter() - began
        return value

    def to_device(self, tensors: Tensor) -> Tensor:
        """The batch on the device, in the layout that the config asks for."""
        layout = torch.channels_last if self.config.run.channels_last else torch.contiguous_format
        return tensors.to(self.fabric.device, memory_format=layout)

    def end_epoch(self, epoch: int) -> None:
        """Score the held-out pictures and add a row of metrics."""
        score, totals = self.score(), self.totals
        self.rows.append(
            {
                "epoch": epoch,
                "step": self.step,
                "learning_rate": round(self.optimizer.param_groups[0]["lr"], 8),
                "train_loss": round(totals.loss / totals.count, 6),
                "train_top1": round(totals.right / totals.count, 6),
                "held_out_loss": round(score.loss, 6),
                "held_out_top1": round(score.top1, 6),
                "images_per_second": round(totals.count / totals.seconds, 1),
            }
        )
        self.totals = Totals()

    def score(self) -> Score:
        """The network on the held-out pictures, each once."""
        data = self.config.data
        pictures = EvaluationPictures(self.held_out, data.preprocessing())
        loader = evaluation_loader(pictures, 2 * self.config.recipe.batch_size, data.workers)
        batches: Iterator[Any] = ((self.to_device(tensors), labels) for tensors, labels in loader)
        return evaluate(self.model, batches, self.fabric.device)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state` goes on exactly."""
        return {
            "step": self.step,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "totals": vars(self.totals),
            "rows": self.rows,
            "config": self.config.to_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.step = state["step"]
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.totals, self.rows = Totals(**state["totals"]), state["rows"]


def open_training_data(config: TrainConfig) -> tuple[Source, Source]:
    """Training and held-out pictures; with data.limit, the first so many of a seeded order."""
    data, seed = config.data, config.run.seed
    train, held_out = open_splits(data.source, data.held_out, seed)
    if data.limit and data.limit < len(train):
        train = Subset(train, sorted(epoch_order(len(train), seed, -1)[: data.limit].tolist()))
    return train, held_out


def make_network(config: TrainConfig, num_classes: int) -> ResNet:
    """The network of the config for the data's classes and channels, seeded."""
    options = {key: value for key, value in config.model.items() if key != "name"}
    if options.get("num_classes", num_classes) != num_classes:
        raise UsageError(f"model.num_classes is {options['num_classes']}, but the data has {num_classes} classes")
    torch.manual_seed(config.run.seed)
    network = create_model(
        config.model["name"], **{**options, "num_classes": num_classes, "in_chans": config.data.channels}
    )
    assert isinstance(network, ResNet)
    if config.run.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network


def make_fabric(config: TrainConfig) -> Any:
    """Lightning Fabric on one device: devices, precisions and, later, launchers."""
    from lightning.fabric import Fabric

    return Fabric(accelerator=config.run.accelerator, devices=1, precision=config.run.precision)  # pyright: ignore
