"""Results of the acceptance table, and their verdicts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.cpu.ceilings import Ceilings
from benchmarks.cpu.rows import FACTOR, LARGEST, AcceptanceRow
from benchmarks.cpu.setting import Setting
from benchmarks.cpu.stages import Profile
from sasa.speed import ratios, spread

FORMAT = 2  # of the JSON
STOPPED, FAILED, IMPOSSIBLE = "stopped", "failed", "not possible here"  # why a row has no value
KILLED = "it was killed"
MILLISECONDS, MEGABYTES, ERROR = "ms an image", "MB", "relative L2"


@dataclass(frozen=True)
class Measured:
    """Values of each side of a comparison, round by round, in `unit`, and a note for the reader."""

    unit: str
    values: dict[str, list[float]]
    note: str = ""


@dataclass(frozen=True)
class RowResult:
    """A row with its value.

    Args:
        row: the row.
        unit: of `ours` and `baseline`.
        value: what goal and must are compared with; None if not measured.
        lower, upper: quartiles of the value over rounds (over cases for the agreement).
        ours, baseline: medians of the sides.
        rounds: number of values of each side.
        note: for the reader, or why there is no value.
        missing: `STOPPED`, `FAILED` or `IMPOSSIBLE` if there is no value.
    """

    row: AcceptanceRow
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
        """Whether the value is at least as good as the limit; None if either is missing."""
        if limit is None or self.value is None:
            return None
        return self.value >= limit if self.row.kind == FACTOR else self.value <= limit

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.value is None:
            return f"not measured: {self.missing}"
        if self.reaches(self.row.goal):
            return "goal met"
        met = self.reaches(self.row.must)
        return "goal missed, reported" if met is None else "must met, goal missed" if met else "MISSED"

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, those of the row included."""
        values = asdict(self)
        return {**values.pop("row"), **values, "verdict": self.verdict}


def judge(row: AcceptanceRow, measured: Measured) -> RowResult:
    """Compute a row's result: the median of the ratios by round, or the largest value."""
    ours = measured.values[row.side]
    if row.kind == LARGEST:
        found = spread(ours)
        note = f"median of {len(ours)} cases {found.median:.1e}; {measured.note}"
        return RowResult(row, measured.unit, max(ours), found.lower, found.upper, found.median, None, len(ours), note)
    theirs = measured.values[row.baseline]
    found = spread(ratios(theirs, ours) if row.kind == FACTOR else ratios(ours, theirs))
    return RowResult(
        row, measured.unit, found.median, found.lower, found.upper,
        spread(ours).median, spread(theirs).median, len(ours), measured.note,
    )  # fmt: skip


@dataclass
class Report:
    """What a run has measured so far. It is complete at any time: rows without a result are "not measured: stopped".

    Args:
        setting, quick, date, machine: of the run.
        rows: to be measured, in the order of the table.
        ceilings: of the machine, once measured.
        results: by name of the row.
        measured: all values, by comparison.
        seconds: duration of each comparison.
        profiles: the networks by stage.
        failures: error messages, by comparison.
        stopped: why the run ended early; None after a complete run. `KILLED` until the run ends, so that a file of a
            killed process says so.
    """

    setting: Setting
    quick: bool
    date: str
    machine: dict[str, Any]
    rows: Sequence[AcceptanceRow]
    ceilings: Ceilings | None = None
    results: dict[str, RowResult] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    profiles: list[Profile] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    stopped: str | None = KILLED

    @property
    def table(self) -> list[RowResult]:
        """A result for every row, in the order of the table."""
        return [self.results.get(row.name, RowResult(row, missing=STOPPED)) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values."""
        return {
            "format": FORMAT,
            "date": self.date,
            "quick": self.quick,
            "setting": self.setting.to_dict(),
            "machine": self.machine,
            "ceilings": self.ceilings and asdict(self.ceilings),
            "stopped": self.stopped,
            "rows": [result.to_dict() for result in self.table],
            "measured": {name: asdict(measured) for name, measured in self.measured.items()},
            "seconds": self.seconds,
            "profiles": [asdict(profile) for profile in self.profiles],
            "failures": self.failures,
        }
