"""The training loop, on Lightning Fabric. Its state is one integer, `step`; everything else follows from it."""

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from sasa.data.random_numbers import mix
from sasa.errors import DataError, DivergedError
from sasa.training import same_data
from sasa.training.averages import BatchNormAverages, WeightAverage, decay_of, momentum_of
from sasa.training.optim import make_optimizer, schedule
from sasa.training.processes import max_over_processes, union_over_processes
from sasa.training.reports import Reports
from sasa.training.run_directory import RunDirectory
from sasa.training.settings import Config
from sasa.training.signals import StoppedError, StopRequest
from sasa.training.symptoms import symptoms
from sasa.training.task import Scored, Task

MOST_NAMED = 3  # images in the message about a batch; diverged.json lists all of them


@dataclass
class Totals:
    """Sums over the current epoch: the loss and the other figures of each image; the images; seconds."""

    sums: Counter[str] = field(default_factory=Counter)
    count: int = 0
    seconds: float = 0.0


@dataclass
class Trainer:
    """A run in memory: its parts, and the step it is at.

    Made by `Trainer.start`; `run` trains from `step` to the end. `model` is what is called: the task's network,
    compiled or wrapped for several processes if the config says so.
    """

    config: Config
    fabric: Any
    task: Task
    model: nn.Module
    optimizer: Any
    average: WeightAverage
    statistics: BatchNormAverages
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    rows: list[dict[str, Any]] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)  # sentences by kind, each given once
    best: list[float] | None = None
    scored: Scored | None = None  # at the current step
    seen: list[str] = field(default_factory=list)  # names of the last step's images
    seconds_before: float = 0.0  # spent on the run by earlier processes, up to the checkpoint that was resumed
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, config: Config, fabric: Any, task: Task) -> "Trainer":
        """Make the optimizer and the averages, and move everything to the device."""
        network, recipe = task.network, config.recipe
        model: Any = torch.compile(network) if config.run.compile else network
        model, optimizer = fabric.setup(model, make_optimizer(network, recipe))
        average = WeightAverage(network, decay_of(recipe.ema_decay, task.steps))
        statistics = BatchNormAverages(network, momentum_of(recipe.batch_norm_momentum, task.steps))
        return cls(config, fabric, task, model, optimizer, average, statistics)

    @property
    def seconds(self) -> float:
        """Time spent on the run, earlier processes included."""
        return self.seconds_before + time.monotonic() - self.began

    @cached_property
    def data(self) -> dict[str, Any]:
        """The record that identifies the data set; computed for the first checkpoint, or to resume."""
        return same_data.record(self.task)

    def run(self, directory: RunDirectory, reports: Reports) -> Scored:
        """Train to the end, saving checkpoints; return the score on the held-out images.

        Afterwards the network has the averaged weights, which are the ones that were scored.

        Raises:
            StoppedError: after a signal of `sasa.training.signals.STOPPING`, once a checkpoint is saved.
            DivergedError: the loss is not finite; the last checkpoint is kept.
            DataError: an image cannot be read, or with "skip" none can.
        """
        every = self.config.run.checkpoint_steps or self.task.steps_per_epoch
        batches = self.task.batches(self.step)
        self.model.train()
        with StopRequest() as stop:
            while self.step < self.task.steps:
                self.take_step(batches, directory, reports)
                if self.step % self.task.steps_per_epoch == 0:
                    self.end_epoch(directory, reports)
                stopping = max_over_processes(self.fabric, stop.signal_number or 0)
                if stopping or self.step % every == 0 or self.step == self.task.steps:
                    reports.flush()  # first: a resumed run could not log again what happened before its checkpoint
                    self.save(directory)
                if stopping and self.step < self.task.steps:
                    command = f"sasa {self.config.COMMAND} --resume {directory.path}"
                    raise StoppedError(f"stopped at step {self.step}, saved; resume with: {command}", stopping)
        self.average.finish()
        self.statistics.release()
        return self.scored or self.task.score(self.model)

    def take_step(self, batches: Iterator[Any], directory: RunDirectory, reports: Reports) -> None:
        """Take one step and report it with its speed, which includes waiting for images."""
        began, before = time.perf_counter(), self.totals.count
        loss = self.train_step(batches, directory)
        seconds = time.perf_counter() - began
        self.totals.seconds += seconds
        speed = (self.totals.count - before) * self.fabric.world_size / seconds
        reports.step(self.step, self.optimizer.param_groups[0]["lr"], loss, speed)

    def train_step(self, batches: Iterator[Any], directory: RunDirectory | None = None) -> float:
        """Take one step of the optimizer over the next micro-batches; return the mean loss of this process.

        The gradient is the mean over micro-batches and processes, as if the step had been one batch (except for batch
        norm, which sees each micro-batch by itself).

        Raises:
            DivergedError: a loss, or a gradient that is to be clipped, that is not finite; the weights are not changed,
                and the names of the images are written to diverged.json in `directory`.
        """
        recipe, seed = self.config.recipe, self.config.run.seed
        warmup = recipe.warmup_epochs * self.task.steps_per_epoch
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(self.step, self.task.steps, warmup)
        self.optimizer.zero_grad(set_to_none=True)
        losses, last, self.seen = [], recipe.accumulate - 1, []
        for number, batch in enumerate(itertools.islice(batches, recipe.accumulate)):
            batch_seed = mix(seed, 1, self.step, self.fabric.global_rank * recipe.accumulate + number)
            torch.manual_seed(batch_seed)  # dropout and mixup then depend only on step and micro-batch
            if self.model.training != (len(batch) > 0):  # where no image could be read, batch norm's statistics stay
                self.model.train(len(batch) > 0)
            with self.fabric.no_backward_sync(self.model, enabled=number < last):
                loss, sums = self.task.loss(self.model, batch, batch_seed)
                self.fabric.backward(loss / recipe.accumulate)
            self.statistics.collect()
            losses.append(loss.item())
            self.seen += self.task.names(batch)
            self.totals.sums.update({"loss": losses[-1] * len(batch), **sums})
            self.totals.count += len(batch)
        mean = sum(losses) / len(losses)
        self._check_finite(mean, f"the loss became {mean} at step {self.step}", directory)
        if recipe.clip_grad_norm:
            self._clip_gradients(directory)
        self.optimizer.step()
        alone = self.fabric.world_size == 1
        self.statistics.update(self.step, None if alone else partial(self.fabric.all_reduce, reduce_op="mean"))
        self.average.update(self.step)
        self.step, self.scored = self.step + 1, None
        return mean

    def _clip_gradients(self, directory: RunDirectory | None) -> None:
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.recipe.clip_grad_norm, error_if_nonfinite=False
        )
        # float16 scales the loss, and a scale that was too large costs this step only: the optimizer does not take it.
        if getattr(self.fabric.strategy.precision, "scaler", None) is None:
            self._check_finite(norm.item(), f"the gradient is not finite at step {self.step}", directory)

    def _check_finite(self, value: float, sentence: str, directory: RunDirectory | None) -> None:
        """Stop all processes if `value` is not finite in one of them, and name the images of the step."""
        diverged = not math.isfinite(value)
        if not max_over_processes(self.fabric, diverged):
            return
        rate = self.optimizer.param_groups[0]["lr"]
        if not diverged:
            raise DivergedError(f"another process diverged at step {self.step}: see its message")
        names, where = self.seen, ""
        if directory:
            found = {"what": sentence, "learning_rate": rate, "pictures": names}
            directory.write_text("diverged.json", json.dumps(found, indent=2) + "\n")
            where = f" (all in {directory.path / 'diverged.json'})"
        more = f" and {len(names) - MOST_NAMED} more{where}" if len(names) > MOST_NAMED else ""
        raise DivergedError(
            f"{sentence} (learning rate {rate:.3g}), on the images {', '.join(names[:MOST_NAMED])}{more}; "
            "lower recipe.learning_rate or set recipe.clip_grad_norm"
        )

    def end_epoch(self, directory: RunDirectory, reports: Reports) -> None:
        """Score the held-out images, add a row to metrics.csv, and save the weights if they are the best so far.

        The averaged weights, which the run keeps, give the columns "held_out_..."; those of the last step, "last_...".

        Raises:
            DataError: none of the epoch's training images could be read.
        """
        means, seconds = self._sums_over_processes(), self.totals.seconds
        count = means.pop("count")
        if not count:
            raise DataError(f"none of the training images could be read, such as {min(self.task.skipped)}")
        last = self.task.score(self.model).row() if self.average.decay else {}
        with self.average.in_place():
            score = self.task.score(self.model)
            if self.best is None or score.quality > tuple(self.best):
                self.best = list(score.quality)
                if self.fabric.is_global_zero:
                    self.task.save(directory.best_path)
                    directory.write_text("best/config.yaml", self.config.to_yaml())  # its data, for `sasa eval`
        self.rows.append(
            {
                "epoch": self.step // self.task.steps_per_epoch,
                "step": self.step,
                "learning_rate": round(self.optimizer.param_groups[0]["lr"], 8),
                **{f"train_{name}": round(value / count, 6) for name, value in means.items()},
                **score.row(),
                **{f"last_{name.removeprefix('held_out_')}": value for name, value in last.items()},
                "images_per_second": round(count / seconds, 1),
            }
        )
        self.scored, self.totals = score, Totals()
        reports.epoch(self.rows)
        sizes = len(self.task.held_out), self.task.chance
        for kind, sentence in symptoms(self.rows, self.config.recipe, *sizes).items():
            if kind not in self.warnings:
                self.warnings[kind] = sentence
                reports.warn(sentence)

    def _sums_over_processes(self) -> dict[str, float]:
        """Return the totals over all processes, "count" included."""
        sums = {**self.totals.sums, "count": float(self.totals.count)}
        if self.fabric.world_size == 1:
            return sums
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.fabric.device)
        return dict(zip(sums, self.fabric.all_reduce(values, reduce_op="sum").tolist(), strict=True))

    def save(self, directory: RunDirectory) -> None:
        """Save a checkpoint; all processes call it, the first one writes.

        Raises:
            DivergedError: weights that are not finite, which are not saved.
        """
        norms = torch.stack([parameter.detach().norm() for parameter in self.task.network.parameters()])
        self._check_finite(norms.sum().item(), f"the weights are not finite after step {self.step}", directory)
        state = self.state()
        if self.fabric.is_global_zero:
            directory.save_checkpoint(state)

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values from which `load_state` resumes exactly."""
        sums = self._sums_over_processes()
        count = int(sums.pop("count"))
        return {
            "step": self.step,
            "model": self.task.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "totals": {"sums": sums, "count": count, "seconds": self.totals.seconds},
            "rows": self.rows,
            "warnings": self.warnings,
            "best": self.best,
            "skipped": union_over_processes(self.fabric, self.task.skipped),
            "threads": torch.get_num_threads(),
            "seconds": self.seconds,
            "data": self.data,
            "config": self.config.to_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Return to where `state` was taken."""
        self.step = state["step"]
        self.task.network.load_state_dict(state["model"])
        self.statistics.restart()
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        totals = state["totals"]
        self.totals = Totals(seconds=totals["seconds"])
        if self.fabric.is_global_zero:  # on one process only: they are summed over processes later
            self.totals.sums, self.totals.count = Counter(totals["sums"]), totals["count"]
        self.rows, self.best = state["rows"], state["best"]
        self.warnings = state.get("warnings", {})
        self.seconds_before = state.get("seconds", 0.0)
        self.task.skipped.update(state["skipped"])
