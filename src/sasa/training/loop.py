"""The training loop, on Lightning Fabric. One integer, `step`, is its whole state; everything else follows from it."""

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sasa.data.random_numbers import mix
from sasa.errors import DivergedError
from sasa.training.averages import BatchNormAverages, WeightAverage, decay_of
from sasa.training.optim import make_optimizer, schedule
from sasa.training.processes import any_of_all, names_of_all
from sasa.training.reports import Reports
from sasa.training.run_directory import RunFolder
from sasa.training.settings import Config
from sasa.training.signals import StoppedError, StopRequest
from sasa.training.task import Scored, Task

NAMED = 3  # images named in the sentence about a batch; all of them are in diverged.json


@dataclass
class Totals:
    """Sums over the steps of the current epoch: of the loss and other figures of each image; images; seconds."""

    sums: Counter[str] = field(default_factory=Counter)
    count: int = 0
    seconds: float = 0.0


@dataclass
class Trainer:
    """A run in memory: the parts, and where it stands.

    Made by `Trainer.start`; `run` goes from `step` to the end. `model` is what is called: the task's network, perhaps
    compiled, and joined to those of other processes.
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
    best: list[float] | None = None
    scored: Scored | None = None  # at this very step
    seen: list[str] = field(default_factory=list)  # the names of the last step's images

    @classmethod
    def start(cls, config: Config, fabric: Any, task: Task) -> "Trainer":
        """Make the optimizer and the averages, and put all on the device."""
        network, recipe = task.network, config.recipe
        model: Any = torch.compile(network) if config.run.compile else network
        model, optimizer = fabric.setup(model, make_optimizer(network, recipe))
        average = WeightAverage(network, decay_of(recipe.ema_decay, task.steps))
        momentum = recipe.batch_norm_momentum
        statistics = BatchNormAverages(
            network, 1 - decay_of(momentum, task.steps) if isinstance(momentum, str) else momentum
        )
        return cls(config, fabric, task, model, optimizer, average, statistics)

    def run(self, folder: RunFolder, reports: Reports) -> Scored:
        """Train to the end; save on the way; return the score on the held-out images.

        Afterwards the network holds the averaged weights, which are those that were scored.

        Raises:
            StoppedError: after SIGINT or SIGTERM, having saved.
            DivergedError: the loss is not finite; the last checkpoint stays.
        """
        every = self.config.run.checkpoint_steps or self.task.steps_per_epoch
        parts = self.task.batches(self.step)
        self.model.train()
        with StopRequest() as stop:
            while self.step < self.task.steps:
                self.take_step(parts, folder, reports)
                if self.step % self.task.steps_per_epoch == 0:
                    self.end_epoch(folder, reports)
                stopping = any_of_all(self.fabric, stop.signal_number or 0)
                if stopping or self.step % every == 0:
                    reports.flush()  # first: what the logs lack of a checkpoint's past would never come back
                    self.save(folder)
                if stopping and self.step < self.task.steps:
                    command = f"sasa {self.config.COMMAND} --resume {folder.path}"
                    sentence = f"stopped at step {self.step}, saved; go on with: {command}"
                    raise StoppedError(sentence, stopping)
        self.average.finish()
        self.statistics.release()
        return self.scored or self.task.score(self.model)

    def take_step(self, parts: Iterator[Any], folder: RunFolder, reports: Reports) -> None:
        """One step with the time it took, waiting for images included."""
        began, before = time.perf_counter(), self.totals.count
        loss = self.train_step(parts, folder)
        seconds = time.perf_counter() - began
        self.totals.seconds += seconds
        speed = (self.totals.count - before) * self.fabric.world_size / seconds
        reports.step(self.step, self.optimizer.param_groups[0]["lr"], loss, speed)

    def train_step(self, parts: Iterator[Any], folder: RunFolder | None = None) -> float:
        """One step of the optimizer, over the next parts; the mean loss of this process.

        The gradient is the mean over parts and processes, as if the step had been one batch (but for batch norm,
        which sees each part by itself).

        Raises:
            DivergedError: a loss that is not finite; the weights stay as they are, and the images' names go to
                diverged.json in `folder`.
        """
        recipe, seed = self.config.recipe, self.config.run.seed
        rate = recipe.learning_rate * schedule(
            self.step, self.task.steps, recipe.warmup_epochs * self.task.steps_per_epoch
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses, last, self.seen = [], recipe.accumulate - 1, []
        for number, batch in enumerate(itertools.islice(parts, recipe.accumulate)):
            part_seed = mix(seed, 1, self.step, self.fabric.global_rank * recipe.accumulate + number)
            torch.manual_seed(part_seed)  # dropout and mixing: a function of step and part
            with self.fabric.no_backward_sync(self.model, enabled=number < last):
                loss, sums = self.task.loss(self.model, batch, part_seed)
                self.fabric.backward(loss / recipe.accumulate)
            self.statistics.collect()
            losses.append(loss.item())
            self.seen += self.task.names(batch)
            self.totals.sums.update({"loss": losses[-1] * len(batch), **sums})
            self.totals.count += len(batch)
        mean = sum(losses) / len(losses)
        self._check_finite(mean, f"the loss became {mean} at step {self.step}", folder)
        if recipe.clip_grad_norm:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=recipe.clip_grad_norm)
        self.optimizer.step()
        self.statistics.update(self.step, self._mean if self.fabric.world_size > 1 else None)
        self.average.update(self.step)
        self.step, self.scored = self.step + 1, None
        return mean

    def _mean(self, tensor: Tensor) -> Tensor:
        return self.fabric.all_reduce(tensor, reduce_op="mean")

    def _check_finite(self, value: float, sentence: str, folder: RunFolder | None) -> None:
        """Stop all processes if `value` is not finite in one of them, and say on which images it happened."""
        wrong = not math.isfinite(value)
        if not any_of_all(self.fabric, wrong):
            return
        rate = self.optimizer.param_groups[0]["lr"]
        if not wrong:
            raise DivergedError(f"another process found at step {self.step} what is not finite")
        names, where = self.seen, ""
        if folder:
            found = {"what": sentence, "learning_rate": rate, "pictures": names}
            folder.write_text("diverged.json", json.dumps(found, indent=2) + "\n")
            where = f" (all in {folder.path / 'diverged.json'})"
        more = f" and {len(names) - NAMED} more{where}" if len(names) > NAMED else ""
        raise DivergedError(
            f"{sentence} (learning rate {rate:.3g}), on the images {', '.join(names[:NAMED])}{more}; "
            "lower recipe.learning_rate or set recipe.clip_grad_norm"
        )

    def end_epoch(self, folder: RunFolder, reports: Reports) -> None:
        """Score the held-out images, add a row of metrics, and keep the weights if they are the best so far."""
        means, seconds = self._sums_of_all(), self.totals.seconds
        count = means.pop("count")
        with self.average.in_place():
            score = self.task.score(self.model)
            if self.best is None or score.quality > tuple(self.best):
                self.best = list(score.quality)
                if self.fabric.is_global_zero:
                    self.task.save(folder.best_path)
                    folder.write_text("best/config.yaml", self.config.to_yaml())  # its data, for `sasa eval`
        self.rows.append(
            {
                "epoch": self.step // self.task.steps_per_epoch,
                "step": self.step,
                "learning_rate": round(self.optimizer.param_groups[0]["lr"], 8),
                **{f"train_{name}": round(value / max(1, count), 6) for name, value in means.items()},
                **score.row(),
                "images_per_second": round(count / seconds, 1),
            }
        )
        self.totals, self.scored = Totals(), score
        reports.epoch(self.rows)

    def _sums_of_all(self) -> dict[str, float]:
        """The totals over all processes, "count" among them."""
        sums = {**self.totals.sums, "count": float(self.totals.count)}
        if self.fabric.world_size == 1:
            return sums
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.fabric.device)
        return dict(zip(sums, self.fabric.all_reduce(values, reduce_op="sum").tolist(), strict=True))

    def save(self, folder: RunFolder) -> None:
        """Save a checkpoint; all processes call it, the first one writes.

        Raises:
            DivergedError: weights that are not finite, which are not saved.
        """
        norms = torch.stack([parameter.detach().norm() for parameter in self.task.network.parameters()])
        self._check_finite(norms.sum().item(), f"the weights are not finite after step {self.step}", folder)
        state = self.state()
        if self.fabric.is_global_zero:
            folder.save_checkpoint(state)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state` goes on exactly."""
        sums = self._sums_of_all()
        count = int(sums.pop("count"))
        return {
            "step": self.step,
            "model": self.task.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "totals": {"sums": sums, "count": count, "seconds": self.totals.seconds},
            "rows": self.rows,
            "best": self.best,
            "skipped": names_of_all(self.fabric, self.task.skipped),
            "threads": torch.get_num_threads(),
            "config": self.config.to_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.step = state["step"]
        self.task.network.load_state_dict(state["model"])
        self.statistics.take()
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        totals = state["totals"]
        self.totals = Totals(seconds=totals["seconds"])
        if self.fabric.is_global_zero:  # they are summed over the processes again
            self.totals.sums, self.totals.count = Counter(totals["sums"]), totals["count"]
        self.rows, self.best = state["rows"], state["best"]
        self.task.skipped.update(state["skipped"])
