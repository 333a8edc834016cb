"""Interleaved timing: the sides of a comparison take turns, so that what disturbs the machine disturbs all alike.

A ratio is the median of the ratios by round, and its spread their quartiles. Times of different runs are not to be
compared.
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
WARMUP_SHARE = 0.25  # of the time of a comparison


@dataclass(frozen=True)
class Spread:
    """The median of some numbers and their quartiles."""

    median: float
    lower: float
    upper: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of a single number, that number three times."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """above / below, round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def take_turns(
    steps: dict[str, Step],
    rounds: int,
    seconds: float,
    warmups: int = 2,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every call: in each round every side is called once, in an order that moves on by one a round.

    Args:
        steps: what to call, by the name of the side.
        rounds: calls of each side that are measured, at most.
        seconds: for all calls. No further round begins afterwards, once there were `LEAST_ROUNDS`.
        warmups: calls of each side before, not measured: kernels are chosen and memory is found there. Only the first
            where that takes more than `WARMUP_SHARE` of the time.
        clock: seconds, whatever they count from (default: `time.perf_counter`).
    """
    clock = clock or time.perf_counter
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
    """Collects now, and not in the middle of one side's turn, which would be charged to that side."""
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Torch on so many threads (None: as many as it has), and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
