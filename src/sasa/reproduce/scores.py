"""The scores by which rows are compared, and the test of their difference over paired seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sasa.counting.paper_cells import Cells
from sasa.reproduce.rows import DETECTION

# Two-sided 5 % points of Student's t for 1, 2, ... degrees of freedom; beyond 10 the last one is a little too strict.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

MIN_SEEDS = 3  # for a conclusion


@dataclass(frozen=True)
class Measure:
    """A score between 0 and 1, in summary.json and in the paper.

    Args:
        name: heading, without the unit (%).
        key: of summary.json.
        others: further keys of summary.json for results.csv.
    """

    name: str
    key: str
    others: tuple[str, ...]

    def ours(self, summary: dict[str, Any]) -> float:
        """The score of a run, in %."""
        return 100 * summary[self.key]

    def paper(self, cells: Cells | None) -> float | None:
        """The paper's score in %, None where it prints none."""
        if cells is None:
            return None
        return cells.ap[0] if cells.ap else cells.top1


def column(key: str) -> str:
    """Return the heading in results.csv for a key of summary.json: "top5" for "held_out_top5"."""
    return key.removeprefix("held_out_")


TOP1 = Measure("top-1", "held_out_top1", ("held_out_top5", "held_out_loss"))
MAP = Measure("mAP", "held_out_map", ("held_out_map50", "held_out_map75"))


def measure_of(table: str) -> Measure:
    """Return mean average precision for Table 2, accuracy for all other tables."""
    return MAP if table == DETECTION else TOP1


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its standard error, None for a single seed."""

    mean: float
    error: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.error is None else f"{self.mean:.2f} ± {self.error:.2f}"

    def signed(self) -> str:
        """The mean with its sign, as a difference."""
        return f"{'+' if self.mean >= 0 else ''}{self}"


def mean(values: Sequence[float]) -> Mean | None:
    """Compute the mean of values with its standard error; None without values."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), error, len(values))


def paired(ours: Mapping[int, float], other: Mapping[int, float]) -> Mean | None:
    """Compute the mean of ours - other over the seeds that both have."""
    return mean([ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())])


def conclusion(difference: Mean | None) -> str:
    """ "higher", "lower" or "no conclusion", by a t-test of the paired differences at 5 %.

    With two seeds there is no conclusion: accuracies are fractions of a few images, so two differences can be equal by
    chance.

    >>> from sasa.reproduce.scores import Mean, conclusion
    >>> conclusion(Mean(1.0, 0.1, 3)), conclusion(Mean(1.0, 0.3, 3)), conclusion(Mean(5.0, 0.0, 2))
    ('higher', 'no conclusion', 'no conclusion')
    """
    if difference is None or difference.error is None or difference.count < MIN_SEEDS:
        return "no conclusion"
    if abs(difference.mean) <= T[min(difference.count - 1, len(T)) - 1] * difference.error:
        return "no conclusion"
    return "higher" if difference.mean > 0 else "lower"
