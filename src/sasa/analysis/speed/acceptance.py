"""The acceptance table of the CPU kernels: which rows there are, what each must reach, and what was measured."""

import datetime
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sasa.analysis.speed.ceilings import Ceilings, machine, measure_ceilings
from sasa.analysis.speed.groups import GROUPS, Measured, NotMeasuredError
from sasa.analysis.speed.setting import Setting
from sasa.analysis.speed.stages import Profile, profiles
from sasa.analysis.speed.timing import ratios, spread, torch_threads
from sasa.analysis.speed.workloads import BASELINE
from sasa.errors import UsageError

FORMAT = 1  # of the JSON
SHARE, FACTOR, LARGEST = "share", "factor", "largest"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: "GROUP/SIDE"; the group measures, the side is ours.
        title: for people.
        goal, must: what the value should and what it must reach; None where it is only reported.
        baseline: the other side of the group.
        kind: "share" (ours / baseline, to be small), "factor" (baseline / ours, to be large) or "largest" (the
            largest of our numbers, to be small).
    """

    name: str
    title: str
    goal: float | None
    must: float | None = None
    baseline: str = BASELINE
    kind: str = SHARE

    @property
    def group(self) -> str:
        """What measures it: a key of `GROUPS`."""
        return self.name.partition("/")[0]

    @property
    def side(self) -> str:
        """Our side of the group."""
        return self.name.partition("/")[2]


NETWORKS = {"full": "full attention", "convstem": "conv-stem + attention"}


def _network_rows(group: str, title: str, **limits: tuple[float, float | None]) -> list[Row]:
    return [Row(f"{group}/{side}", f"{NETWORKS[side]} / resnet50, {title}", *limits[side]) for side in limits]


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        *_network_rows("inference", "inference", full=(0.88, 1.05), convstem=(0.86, 1.00)),
        *_network_rows("training", "training step", full=(0.88, 1.15), convstem=(0.86, 1.10)),
        *_network_rows("compiled-inference", "inference, both compiled", full=(0.88, None), convstem=(0.88, None)),
        *_network_rows("compiled-training", "training step, both compiled", full=(0.88, None), convstem=(0.88, None)),
        *_network_rows("folded", "inference, batch norm folded", full=(0.88, None), convstem=(0.88, None)),
        *_network_rows("batch-1", "inference, batch 1", full=(0.95, None), convstem=(0.95, None)),
        *_network_rows("bfloat16", "inference, bfloat16", full=(0.95, None), convstem=(0.95, None)),
        Row("cores/cores", "all attention cores / the 3 x 3 convolutions, forward", 0.35, 0.6),
        Row("operator/ours", "operator against unfold, forward", 100, 50, "unfold", FACTOR),
        Row("operator-training/ours", "operator against unfold, forward + backward", 60, 30, "unfold", FACTOR),
        *_network_rows("memory", "peak memory of a training step", full=(1.0, 1.3), convstem=(1.0, 1.3)),
        Row("agreement/ours", "float32 against the float64 reference, worst case", 2e-6, 1e-5, "", LARGEST),
        *_network_rows("avx2", "inference, AVX2 only", full=(1.0, None), convstem=(1.0, None)),
    )
}


@dataclass(frozen=True)
class Result:
    """A row with what was measured.

    Args:
        row: the line of the table.
        unit: of `ours` and `baseline`.
        value: what goal and must judge; None where it could not be measured.
        lower, upper: quartiles of the value over rounds (over cases for the agreement).
        ours, baseline: medians of the sides.
        rounds: how many numbers of each side.
        note: what a reader should know, or why nothing was measured.
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

    def reaches(self, limit: float | None) -> bool | None:
        """Whether the value is as good as the limit; None where either is missing."""
        if limit is None or self.value is None:
            return None
        return self.value >= limit if self.row.kind == FACTOR else self.value <= limit

    @property
    def verdict(self) -> str:
        """In words."""
        if self.value is None:
            return "not measured"
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
    """What a run measured, in the order of the table."""

    setting: Setting
    quick: bool
    date: str
    machine: dict[str, Any]
    ceilings: Ceilings
    results: list[Result] = field(default_factory=list)
    measured: dict[str, Measured] = field(default_factory=dict)
    profiles: list[Profile] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {
            "format": FORMAT,
            "date": self.date,
            "quick": self.quick,
            "setting": self.setting.to_dict(),
            "machine": self.machine,
            "ceilings": self.ceilings.to_dict(),
            "rows": [result.to_dict() for result in self.results],
            "measured": {name: asdict(measured) for name, measured in self.measured.items()},
            "profiles": [profile.to_dict() for profile in self.profiles],
        }


def choose(patterns: Sequence[str] | None = None) -> list[Row]:
    """Rows whose name or group matches one of the shell patterns, in the order of the table; all without any.

    Raises:
        UsageError: a pattern that matches nothing.

    >>> [row.name for row in choose(["training", "cores/*"])]
    ['training/full', 'training/convstem', 'cores/cores']
    """
    chosen = set(ROWS) if not patterns else set()
    for pattern in patterns or ():
        matched = {
            row.name
            for row in ROWS.values()
            if fnmatch.fnmatchcase(row.name, pattern) or fnmatch.fnmatchcase(row.group, pattern)
        }
        if not matched:
            raise UsageError(f"--rows {pattern!r} matches no row of the table; groups: {', '.join(GROUPS)}")
        chosen |= matched
    return [row for name, row in ROWS.items() if name in chosen]


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


def run(
    rows: Sequence[Row],
    setting: Setting,
    *,
    profile: bool = False,
    quick: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> Report:
    """Measure the rows, group by group, in one process.

    Args:
        rows: of `ROWS`.
        setting: sizes, rounds, threads.
        profile: measure the networks by stage as well.
        quick: whether the setting is the small one: told in the report.
        say: gets a line when a group begins.

    Raises:
        SasaError: torchvision is missing, or what is to be compared does not agree.
    """
    groups = [name for name in GROUPS if any(row.group == name for row in rows)]
    with torch_threads(setting.threads):
        say("ceilings of the machine")
        sizes = {"size": 2**22, "seconds": 0.01} if quick else {}
        date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        report = Report(setting, quick, date, machine(), measure_ceilings(setting.threads, **sizes))
        reasons: dict[str, str] = {}
        for name in groups:
            say(name)
            try:
                report.measured[name] = GROUPS[name](setting)
            except NotMeasuredError as error:
                reasons[name] = str(error)
        report.results = [
            judge(row, report.measured[row.group]) if row.group in report.measured
            else Result(row, note=reasons[row.group])
            for row in rows
        ]  # fmt: skip
        if profile:
            say("profile by stage")
            report.profiles = profiles(setting)
    return report
