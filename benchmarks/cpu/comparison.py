"""What a comparison is and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass

from sasa.errors import SasaError
from sasa.speed.setting import Setting

MILLISECONDS, MEGABYTES, ERROR = "ms an image", "MB", "relative L2"


class NotMeasuredError(SasaError):
    """A comparison that this machine cannot make; the sentence says why."""


@dataclass(frozen=True)
class Measured:
    """Numbers of each side, round by round, in `unit`; `note` says what a reader should know of them."""

    unit: str
    values: dict[str, list[float]]
    note: str = ""


Compare = Callable[[Setting], Measured]


@dataclass(frozen=True)
class Group:
    """A comparison and how long it may take.

    Args:
        compare: measures all sides in turns.
        patience: the share of `Setting.seconds` that the rounds may take; 0 where the work is the same everywhere.
        overhead: seconds beside the rounds (building, importing, compiling) on two cores of a fast machine.
    """

    compare: Compare
    patience: float = 1.0
    overhead: float = 3.0

    def about(self, setting: Setting, slowness: float) -> float:
        """The seconds that it takes at most, roughly, on a machine that is so many times slower."""
        return self.patience * setting.seconds + self.overhead * slowness
