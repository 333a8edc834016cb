"""Number of epochs that fit into a time budget, measured on a few steps of every row before the first run."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sasa.durations import format_duration
from sasa.errors import UsageError
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.task import open_training_data
from sasa.tasks.dry_run import time_steps
from sasa.tasks.registry import config_of
from sasa.tasks.train import start
from sasa.training.settings import Config

STEPS = 6  # measured; the first one does not count
SCORING = 0.4  # cost of scoring an image, relative to training on it: a forward pass is a third, the rest is reading
DRAWING = 3.0  # seconds for curves and images at the end of a run
USED = 0.9  # fraction of the remaining time to plan for, because the speed of a machine varies


@dataclass(frozen=True)
class RunCost:
    """Time of a run in seconds: the fixed part, and each epoch with its scoring."""

    once: float
    epoch: float


def measure(config: Config) -> RunCost:
    """Estimate the cost of a run from its first steps; nothing is written.

    A run in memory decodes all images before its first step: here only those of a few batches, and the time is
    extrapolated.
    """
    began, short, splits = time.perf_counter(), config_of(config.to_dict()), None
    if isinstance(short, TrainConfig) and short.data.in_memory:
        splits = open_training_data(short)
        short.data.limit = min(len(splits[0]), STEPS * short.recipe.batch_size)
    opening = time.perf_counter() - began
    trainer = start(short)
    once = time.perf_counter() - began - opening + DRAWING
    first, *others = time_steps(trainer, STEPS)
    step = statistics.median(others or [first])
    images, held_out = map(len, splits or (trainer.task.train, trainer.task.held_out))
    if splits:
        once += max(0.0, first - step) / short.data.limit * (images + held_out)
    batch = min(short.recipe.batch_size, images)
    return RunCost(once, images // batch * step + SCORING * held_out / batch * step)


def epochs_that_fit(costs: Sequence[RunCost], seeds: int, seconds: float, most: int) -> int:
    """Return the largest number of epochs, at most `most`, such that all rows and seeds take at most `seconds`.

    Raises:
        UsageError: not even one epoch fits; the message states the time of one.

    >>> from sasa.reproduce.budget import RunCost, epochs_that_fit
    >>> epochs_that_fit([RunCost(once=1, epoch=10), RunCost(once=1, epoch=20)], seeds=3, seconds=1000, most=90)
    9
    """
    once, epoch = seeds * sum(cost.once for cost in costs), seeds * sum(cost.epoch for cost in costs)
    fit = int((USED * seconds - once) / epoch)
    if fit < 1:
        raise UsageError(
            f"--budget is too short: one epoch of {len(costs)} rows with {seeds} seeds each takes about "
            f"{format_duration((once + epoch) / USED)} after measuring, and {format_duration(seconds)} are left"
        )
    return min(fit, most)
