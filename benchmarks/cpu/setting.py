"""Sizes and time limits of a run, given to every measurement."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sasa.errors import ArgumentError


@dataclass(frozen=True)
class Setting:
    """Sizes and time limits. The defaults are those of the acceptance table.

    Args:
        batch: images in a batch.
        side: of the square images, in pixels.
        layers: blocks in each stage of the ResNets, ours and the baseline.
        rounds: maximum number of turns of each side of a comparison.
        seconds: time limit of a comparison's rounds; slow machines take fewer rounds, but at least 3.
        cases: random cases compared with the reference.
        threads: number of torch's threads.
    """

    batch: int = 8
    side: int = 224
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    rounds: int = 15
    seconds: float = 30.0
    cases: int = 300
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "side", "rounds", "cases", "threads"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def make(cls, *, quick: bool = False, rounds: int | None = None, threads: int | None = None) -> "Setting":
        """Make the setting of a command line; `quick` has small networks, to try the command."""
        setting = cls(batch=2, side=64, layers=(1, 1, 1, 1), rounds=2, seconds=5.0, cases=10) if quick else cls()
        return replace(setting, rounds=rounds or setting.rounds, threads=threads or torch.get_num_threads())

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values."""
        return {**asdict(self), "layers": list(self.layers)}
