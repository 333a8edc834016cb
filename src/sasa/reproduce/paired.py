"""Mean, standard error, and whether seeds that were run in pairs tell two networks apart."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Two-sided 5 % points of Student's t for 1, 2, ... degrees of freedom; beyond them the last is a little too strict.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

LEAST = 3  # seeds for a conclusion


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its standard error, None for a single seed."""

    mean: float
    error: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.error is None else f"{self.mean:.2f} ± {self.error:.2f}"

    def signed(self) -> str:
        """With its sign, as a difference."""
        return f"{'+' if self.mean >= 0 else ''}{self}"


def mean(values: Sequence[float]) -> Mean | None:
    """Of the values, None without any."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), error, len(values))


def paired(ours: Mapping[int, float], other: Mapping[int, float]) -> Mean | None:
    """The mean of ours - other over the seeds that both have."""
    return mean([ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())])


def conclusion(difference: Mean | None) -> str:
    """ "higher", "lower" or "no conclusion", by a t-test of the paired differences at 5 %.

    Two seeds conclude nothing: accuracies are whole images, and two equal differences come by chance.

    >>> from sasa.reproduce.paired import Mean, conclusion
    >>> conclusion(Mean(1.0, 0.1, 3)), conclusion(Mean(1.0, 0.3, 3)), conclusion(Mean(5.0, 0.0, 2))
    ('higher', 'no conclusion', 'no conclusion')
    """
    if difference is None or difference.error is None or difference.count < LEAST:
        return "no conclusion"
    if abs(difference.mean) <= T[min(difference.count - 1, len(T)) - 1] * difference.error:
        return "no conclusion"
    return "higher" if difference.mean > 0 else "lower"
