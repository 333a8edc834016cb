"""Ceilings of the machine, measured: multiply-adds a second and bytes a second."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sasa.speed import torch_threads

TENSOR_BYTES = 256 * 2**20  # far beyond any cache
CALL_SECONDS = 0.2
REPEATS = 5


@dataclass(frozen=True)
class Ceilings:
    """Measured ceilings of this machine.

    Args:
        threads: number of torch's threads.
        flops: float32 FLOP a second, 2 for each multiply-add; None if the native library is missing.
        flops_one_thread: the same with one thread.
        copy: bytes a second, read plus written, of a copy between large tensors.
        triad: bytes a second of a = b + 3 c. A cache that reads a line before writing it moves a third more.
    """

    threads: int
    flops: float | None
    flops_one_thread: float | None
    copy: float
    triad: float

    def floor(self, flops: float, moved: float) -> float | None:
        """Compute the least seconds for `flops` operations on `moved` bytes; None if the peak was not measured."""
        if self.flops is None:
            return None
        return max(flops / self.flops, moved / max(self.copy, self.triad))

    def __str__(self) -> str:
        if self.flops is None or self.flops_one_thread is None:
            peak = "not measured (the native library is not loaded)"
        else:
            peak = f"{self.flops / 1e9:.0f} GFLOP/s, of one thread {self.flops_one_thread / 1e9:.0f}"
        return (
            f"ceilings, {self.threads} thread{'s' * (self.threads > 1)}: multiply-adds in float32 {peak}; "
            f"memory, copy {self.copy / 1e9:.1f} GB/s, triad {self.triad / 1e9:.1f} GB/s"
        )


def measure_ceilings(threads: int, size: int = TENSOR_BYTES, seconds: float = CALL_SECONDS) -> Ceilings:
    """Measure the ceilings.

    Args:
        threads: number of torch's threads.
        size: bytes of each tensor.
        seconds: duration of each call of the multiply-add loop.
    """
    with torch_threads(threads):
        copied, summed = bandwidth(size)
    return Ceilings(threads, flops_per_second(threads, seconds), flops_per_second(1, seconds), copied, summed)


def flops_per_second(threads: int, least: float = CALL_SECONDS) -> float | None:
    """Measure FLOP a second of the multiply-add loop, best of a few calls; None if the native library is missing."""
    multiply_adds = getattr(torch.ops.sasa, "cpu_multiply_adds", None)
    if multiply_adds is None:
        return None
    with torch_threads(threads):
        rounds, seconds = 1000, 0.0
        while seconds < least / 2:  # until starting threads is negligible
            seconds = _seconds(functools.partial(multiply_adds, rounds))
            rounds = int(rounds * min(1000.0, max(2.0, least / max(seconds, 1e-6))))
        done = multiply_adds(rounds)
        return 2 * done / min(_seconds(functools.partial(multiply_adds, rounds)) for _ in range(REPEATS))


def bandwidth(size: int = TENSOR_BYTES) -> tuple[float, float]:
    """Measure bytes a second of a copy and of a = b + 3 c over tensors of `size` bytes, best of a few calls."""
    a, b, c = (torch.ones(max(1, size // 4)) for _ in range(3))
    moved = a.numel() * a.element_size()
    copied = min(_seconds(lambda: a.copy_(b)) for _ in range(REPEATS))
    summed = min(_seconds(lambda: torch.add(b, c, alpha=3, out=a)) for _ in range(REPEATS))
    return 2 * moved / copied, 3 * moved / summed


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
