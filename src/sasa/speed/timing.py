"""Interleaved timing: the sides of a comparison take turns, so that a disturbance of the machine affects all of them.

Compare sides by the median of their ratios round by round, never times from different runs. `Stop` ends measurements
early: on Ctrl-C, on SIGTERM, or when their time budget has passed.
"""

import contextlib
import gc
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

Step = Callable[[], object]
LEAST_ROUNDS = 3
WARMUP_SHARE = 0.25  # of the time limit of a comparison
REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "SIGTERM"}


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


class StopMeasuringError(BaseException):
    """Raised inside a measurement to end it. Not an `Exception`, so that measured code does not catch it."""


class Stop:
    """While entered, the first SIGINT, SIGTERM or the end of the budget stops the current measurement.

    Outside `measuring()`, for example while a file is written, the request is only recorded, and the next measurement
    does not begin. A second signal of the same kind ends the process. Outside the main thread, where Python handles no
    signals, nothing stops.

    Args:
        seconds: budget of all measurements together, from entering on; None for no limit. Ignored on systems without
            interval timers (Windows).

    Attributes:
        reason: why measuring stopped; None until then.
        signal_number: the signal that was received, if any.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self.reason: str | None = None
        self.signal_number: int | None = None
        self._measuring = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in REASONS:
            self._before[number] = signal.signal(number, self._on_signal)
        if self.seconds is not None and hasattr(signal, "setitimer"):
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *exception: object) -> None:
        if getattr(signal, "SIGALRM", None) in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Mark a block that may be interrupted.

        Raises:
            StopMeasuringError: immediately if a stop was already requested, else as soon as it is.
        """
        self._measuring = True
        try:
            if self.reason is not None:
                raise StopMeasuringError(self.reason)
            yield
        finally:
            self._measuring = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.signal_number = number
        self._request(REASONS[signal.Signals(number)])

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        self._request(f"the budget of {self.seconds:.0f} seconds has passed")

    def _request(self, reason: str) -> None:
        self.reason = self.reason or reason
        if self._measuring:
            raise StopMeasuringError(self.reason)
