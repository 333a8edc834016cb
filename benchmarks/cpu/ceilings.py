"""What this machine can do at most: multiply-adds a second and bytes a second, measured, not looked up."""

import functools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sasa.machine import cpu_name
from sasa.ops import backends
from sasa.ops.native import instruction_set
from sasa.speed.timing import torch_threads
from sasa.threads import cores

TENSOR_BYTES = 256 * 2**20  # far beyond any cache
CALL_SECONDS = 0.2
REPEATS = 5


@dataclass(frozen=True)
class Ceilings:
    """Measured ceilings of this machine.

    Args:
        threads: that worked together.
        flops: FLOP a second in float32, 2 for each multiply-add; None where the native library has no such loop.
        flops_one_thread: the same of one thread alone.
        copy: bytes a second, read and written, of a copy between two large tensors.
        triad: bytes a second of a = b + 3 c. A cache that reads a line before it writes it moves a third more.
    """

    threads: int
    flops: float | None
    flops_one_thread: float | None
    copy: float
    triad: float

    def floor(self, flops: float, moved: float) -> float | None:
        """Seconds that `flops` operations on `moved` bytes take at least; None where the peak was not measured."""
        if self.flops is None:
            return None
        return max(flops / self.flops, moved / max(self.copy, self.triad))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return asdict(self)

    def __str__(self) -> str:
        if self.flops is None or self.flops_one_thread is None:
            peak = "not measured (the native library is not loaded, or has no loop for it)"
        else:
            peak = f"{self.flops / 1e9:.0f} GFLOP/s, of one thread {self.flops_one_thread / 1e9:.0f}"
        return (
            f"ceilings, {self.threads} thread{'s' * (self.threads > 1)}: multiply-adds in float32 {peak}; "
            f"memory, copy {self.copy / 1e9:.1f} GB/s, triad {self.triad / 1e9:.1f} GB/s"
        )


def measure_ceilings(threads: int, size: int = TENSOR_BYTES, seconds: float = CALL_SECONDS) -> Ceilings:
    """Measure them now.

    Args:
        threads: of torch.
        size: bytes of each tensor.
        seconds: of each call that does nothing but multiply and add.
    """
    with torch_threads(threads):
        copied, summed = bandwidth(size)
    return Ceilings(threads, flops_per_second(threads, seconds), flops_per_second(1, seconds), copied, summed)


def flops_per_second(threads: int, least: float = CALL_SECONDS) -> float | None:
    """2 * multiply-adds a second of so many of torch's threads, best of a few calls; None without the native op."""
    multiply_adds = getattr(torch.ops.sasa, "cpu_multiply_adds", None)
    if multiply_adds is None:
        return None
    with torch_threads(threads):
        try:
            rounds, seconds = 1000, 0.0
            while seconds < least / 2:  # long enough that starting threads is nothing
                seconds = _seconds(functools.partial(multiply_adds, rounds))
                rounds = int(rounds * min(1000.0, max(2.0, least / max(seconds, 1e-6))))
            done = multiply_adds(rounds)
            return 2 * done / min(_seconds(functools.partial(multiply_adds, rounds)) for _ in range(REPEATS))
        except RuntimeError:  # the library has none for this instruction set
            return None


def bandwidth(size: int = TENSOR_BYTES) -> tuple[float, float]:
    """Bytes a second of a copy and of a triad a = b + 3 c, best of a few, over tensors of `size` bytes."""
    a, b, c = (torch.ones(max(1, size // 4)) for _ in range(3))
    moved = a.numel() * a.element_size()
    copied = min(_seconds(lambda: a.copy_(b)) for _ in range(REPEATS))
    summed = min(_seconds(lambda: torch.add(b, c, alpha=3, out=a)) for _ in range(REPEATS))
    return 2 * moved / copied, 3 * moved / summed


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "kernels": instruction_set(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backends": [str(backend) for backend in backends()],
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
