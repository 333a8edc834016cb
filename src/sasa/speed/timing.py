"""Interleaved timing: the sides of a comparison take turns, so that a disturbance of the machine affects all of them.

Compare sides by the median of their ratios round by round, never times from different runs.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Step = Callable[[], object]
LEAST_ROUNDS = 3
WARMUP_SHARE = 0.25  # of the time limit of a comparison


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    lower: float
    upper: float


def spread(values: Sequence[float]) -> Spread:
    """Compute median and quartiles; all three equal a single value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divide round by round."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def take_turns(
    steps: dict[str, Step],
    rounds: int,
    seconds: float,
    warmups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every step once a round, in an order that rotates by one each round.

    Args:
        steps: functions to time, by name of the side.
        rounds: maximum number of timed calls of each side.
        seconds: time limit for all calls. After it no round begins, but at least `LEAST_ROUNDS` are measured.
        warmups: untimed calls of each side before the first round, for kernel selection and memory allocation. Only one
            where the first takes more than `WARMUP_SHARE` of the time limit.
        clock: returns seconds.

    Returns:
        Seconds of each call, by side.
    """
    began = clock()
    for number in range(warmups):
        if number and clock() - began > WARMUP_SHARE * seconds:
            break
        for step in steps.values():
            step()
    order, times = list(steps), {name: [] for name in steps}
    with _no_garbage_collection():
        for number in range(rounds):
            if number >= LEAST_ROUNDS and clock() - began > seconds:
                break
            for name in order:
                started = clock()
                steps[name]()
                times[name].append(clock() - started)
            order = order[1:] + order[:1]
    return times


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and disable collection in the block, where it would count as time of one side."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Set torch's number of threads (None: leave it) and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
