"""How many epochs fit into the time there is: measured on a few steps of every row, before the first run."""

import statistics
import time
from dataclasses import dataclass

from sasa.durations import spoken
from sasa.errors import UsageError
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.task import open_training_data
from sasa.tasks.dry_run import time_steps
from sasa.tasks.registry import config_of
from sasa.tasks.train import start
from sasa.training.settings import Config

STEPS = 6  # measured; the first one is left out
SCORING = 0.4  # of a training step: a forward pass is a third of it, and some more for reading
DRAWING = 3.0  # seconds for curves and images at the end of a run
USED = 0.9  # of the time that is left: machines are not equally fast all the time


@dataclass(frozen=True)
class Cost:
    """Seconds of a run: once, and for every epoch with its scoring."""

    once: float
    epoch: float


def measure(config: Config) -> Cost:
    """What a run costs, from its first steps; nothing is written."""
    began = time.perf_counter()
    short = config_of(config.to_dict())
    if isinstance(short, TrainConfig) and short.data.in_memory:
        return _measure_in_memory(short, began)
    trainer = start(short)
    building = time.perf_counter() - began
    first, *others = time_steps(trainer, STEPS)
    step, task = statistics.median(others or [first]), trainer.task
    return Cost(building + DRAWING, _epoch(step, len(task.train), len(task.held_out), config.recipe.batch_size))


def _measure_in_memory(short: TrainConfig, began: float) -> Cost:
    """All images would be decoded before the first step; a few batches of them tell how long that takes."""
    train, held_out = open_training_data(short)
    opening = time.perf_counter() - began
    batch = min(short.recipe.batch_size, len(train))
    short.data.limit = min(len(train), STEPS * batch)
    trainer = start(short)
    building = time.perf_counter() - began - opening
    first, *others = time_steps(trainer, STEPS)
    step = statistics.median(others or [first])
    decoding = max(0.0, first - step) / short.data.limit * (len(train) + len(held_out))
    return Cost(building + decoding + DRAWING, _epoch(step, len(train), len(held_out), batch))


def _epoch(step: float, images: int, held_out: int, batch: int) -> float:
    """Seconds of an epoch with its scoring, from those of a step."""
    batch = min(batch, images)
    return images // batch * step + SCORING * held_out / batch * step


def epochs_that_fit(costs: list[Cost], seeds: int, seconds: float, most: int) -> int:
    """Epochs of every run such that all rows for all seeds take `seconds` at most, and no more than `most`.

    Raises:
        UsageError: not even one; says how long that would take.

    >>> from sasa.reproduce.budget import Cost, epochs_that_fit
    >>> epochs_that_fit([Cost(once=1, epoch=10), Cost(once=1, epoch=20)], seeds=3, seconds=1000, most=90)
    9
    """
    once, epoch = seeds * sum(cost.once for cost in costs), seeds * sum(cost.epoch for cost in costs)
    fit = int((USED * seconds - once) / epoch)
    if fit < 1:
        raise UsageError(
            f"--budget is too short: one epoch of {len(costs)} rows with {seeds} seeds each takes about "
            f"{spoken((once + epoch) / USED)} after measuring, and {spoken(seconds)} are left"
        )
    return min(fit, most)
