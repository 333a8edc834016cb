"""What the device can do at most, measured in the same run: bytes of a copy, FLOP of a matrix product."""

import functools
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gpu_device import Device
from gpu_run import Line

COPIED = 6 * 10**9  # bytes of each tensor
SIZE = 8192  # of the square matrices
SMALL_COPIED, SMALL_SIZE = 2**24, 256  # on a CPU, to try the command
REPEATS = 7


@dataclass(frozen=True)
class Ceilings:
    """Measured ceilings.

    Args:
        copy: bytes a second, read and written, of a copy of `copied` bytes.
        matmul: FLOP a second of a bfloat16 product of two square matrices of `size`, random numbers.
    """

    copy: float
    matmul: float
    copied: int
    size: int

    def floor(self, flops: float, moved: float | None) -> float:
        """Milliseconds that it takes at least. `moved` None: bytes are not counted."""
        return 1000 * max(flops / self.matmul, (moved or 0) / self.copy)

    def columns(self, flops: float, moved: float | None, milliseconds: float) -> Line:
        """Rates, and the floor in percent of the time.

        >>> Ceilings(4e12, 8e14, 0, 0).columns(8e11, 2e9, 2.0)
        {'TFLOP/s': 400.0, 'GB/s': 1000.0, '% of ceiling': 50.0, 'ceiling': 'matmul'}
        """
        limits = {"matmul": flops / self.matmul, "copy": (moved or 0) / self.copy}
        return {
            "TFLOP/s": flops / milliseconds / 1e9,
            "GB/s": None if moved is None else moved / milliseconds / 1e6,
            "% of ceiling": 100 * self.floor(flops, moved) / milliseconds,
            "ceiling": max(limits, key=limits.__getitem__),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"ceilings: a copy of {self.copied / 1e9:.1f} GB {self.copy / 1e9:.0f} GB/s read and written, "
            f"a bfloat16 product of {self.size}^3 {self.matmul / 1e12:.1f} TFLOP/s"
        )


def measure_ceilings(device: Device) -> Ceilings:
    """Measure them now: medians of a few calls."""
    copied, size = SMALL_COPIED, SMALL_SIZE
    if device.cuda:
        copied, size = min(COPIED, torch.cuda.mem_get_info()[0] // 4), SIZE
    source = torch.empty(copied // 2, dtype=torch.bfloat16, device=device.name).normal_()
    target = torch.empty_like(source)
    copy = statistics.median(device.seconds(functools.partial(target.copy_, source)) for _ in range(REPEATS))
    del source, target
    a, b = (torch.randn(size, size, device=device.name).bfloat16() for _ in range(2))
    for _ in range(3):
        a @ b
    several = 10  # in a turn: waiting for each would be charged to it

    def products() -> None:
        for _ in range(several):
            a @ b

    product = statistics.median(device.seconds(products) for _ in range(REPEATS)) / several
    device.release()
    return Ceilings(2 * copied / copy, 2 * size**3 / product, copied, size)
