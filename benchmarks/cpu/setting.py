"""How large and how long: one frozen table that every measurement is given."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sasa.errors import ArgumentError

BLOCKS_50 = (3, 4, 6, 3)


@dataclass(frozen=True)
class Setting:
    """Sizes and patience of a run. The defaults are those of the acceptance table.

    Args:
        batch: images of a call.
        side: of the square images, in pixels.
        layers: blocks in each group of the ResNets, ours and the baseline's alike.
        rounds: times that each side of a comparison takes its turn, at most.
        seconds: that an important comparison may take (`Group.patience`): slow machines take fewer rounds, but no
            fewer than `LEAST_ROUNDS`.
        cases: random cases of the agreement with the reference.
        threads: of torch.
    """

    batch: int = 8
    side: int = 224
    layers: tuple[int, int, int, int] = BLOCKS_50
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
        """The setting of a command line; `quick` is for trying the command: small networks, nothing to be quoted."""
        setting = cls(batch=2, side=64, layers=(1, 1, 1, 1), rounds=2, seconds=5.0, cases=10) if quick else cls()
        return replace(setting, rounds=rounds or setting.rounds, threads=threads or torch.get_num_threads())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Setting":
        """The inverse of `to_dict`."""
        return cls(**{**values, "layers": tuple(values["layers"])})
