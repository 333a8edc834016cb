"""What was measured for the rows of the acceptance table, and how it is judged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sasa.speed.ceilings import Ceilings
from sasa.speed.comparison import Measured
from sasa.speed.rows import FACTOR, LARGEST, Row
from sasa.speed.setting import Setting
from sasa.speed.stages import Profile
from sasa.speed.timing import ratios, spread

FORMAT = 2  # of the JSON
STOPPED, FAILED, IMPOSSIBLE = "stopped", "failed", "not possible here"  # why a row was not measured
KILLED = "it was killed"


@dataclass(frozen=True)
class Result:
    """A row with what was measured.

    Args:
        row: the line of the table.
        unit: of `ours` and `baseline`.
        value: what goal and must judge; None where it was not measured.
        lower, upper: quartiles of the value over rounds (over cases for the agreement).
        ours, baseline: medians of the sides.
        rounds: how many numbers of each side.
        note: what a reader should know, or why nothing was measured.
        missing: `STOPPED`, `FAILED` or `IMPOSSIBLE` where there is no value.
    """

    row: Row
    unit: str = ""
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    ours: float | None = None
    baseline: float | None = None
    rounds: int = 0
    note: str = ""
    missing: str = ""

    def reaches(self, limit: float | None) -> bool | None:
        """Whether the value is as good as the limit; None where either is missing."""
        if limit is None or self.value is None:
            return None
        return self.value >= limit if self.row.kind == FACTOR else self.value <= limit

    @property
    def verdict(self) -> str:
        """In words."""
        if self.value is None:
            return f"not measured: {self.missing}" if self.missing else "not measured"
        if self.reaches(self.row.goal):
            return "goal met"
        met = self.reaches(self.row.must)
        return "goal missed, reported" if met is None else "must met, goal missed" if met else "MISSED"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them; the row's among them."""
        values = asdict(self)
        return {**values.pop("row"), **values, "verdict": self.verdict}


@dataclass
class Report:
    """What a run has measured so far. At any time it is whole: rows without a result say that the run was stopped.

    Args:
        setting, quick, date, machine: how, when and where.
        rows: that were asked for, in the order of the table.
        ceilings: of the machine, once they are measured.
        results: by the name of the row.
        measured: every round of every side, by group.
        seconds: that each group took.
        profiles: the networks by stage.
        failures: what went wrong, by group.
        stopped: why the run ended early; None where it did not. `KILLED` until it has ended: whoever finds the file of
            a run that was killed reads so.
    """

    setting: Setting
    quick: bool
    date: str
    machine: dict[str, Any]
    rows: Sequence[Row]
    ceilings: Ceilings | None = None
    results: dict[str, Result] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    profiles: list[Profile] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    stopped: str | None = KILLED

    @property
    def table(self) -> list[Result]:
        """A result for every row, in the order of the table."""
        return [self.results.get(row.name, Result(row, missing=STOPPED)) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {
            "format": FORMAT,
            "date": self.date,
            "quick": self.quick,
            "setting": self.setting.to_dict(),
            "machine": self.machine,
            "ceilings": self.ceilings and self.ceilings.to_dict(),
            "stopped": self.stopped,
            "rows": [result.to_dict() for result in self.table],
            "measured": {name: asdict(measured) for name, measured in self.measured.items()},
            "seconds": self.seconds,
            "profiles": [profile.to_dict() for profile in self.profiles],
            "failures": self.failures,
        }


def judge(row: Row, measured: Measured) -> Result:
    """The row's value out of the sides' numbers: the median of the ratios by round, or the largest."""
    ours = measured.values[row.side]
    if row.kind == LARGEST:
        found = spread(ours)
        note = f"median of {len(ours)} cases {found.median:.1e}; {measured.note}"
        return Result(row, measured.unit, max(ours), found.lower, found.upper, found.median, None, len(ours), note)
    theirs = measured.values[row.baseline]
    found = spread(ratios(theirs, ours) if row.kind == FACTOR else ratios(ours, theirs))
    return Result(
        row, measured.unit, found.median, found.lower, found.upper,
        spread(ours).median, spread(theirs).median, len(ours), measured.note,
    )  # fmt: skip
