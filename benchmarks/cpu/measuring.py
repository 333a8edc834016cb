"""A run of the acceptance table: group by group in one process, each kept when it is there."""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sasa.durations import roughly
from sasa.speed.acceptance import FAILED, IMPOSSIBLE, Report, Result, judge
from sasa.speed.ceilings import machine, measure_ceilings
from sasa.speed.comparison import Group, Measured, NotMeasuredError
from sasa.speed.groups import GROUPS
from sasa.speed.instruction_sets import HELD, avx2_is_all
from sasa.speed.rows import Row, groups_of
from sasa.speed.setting import Setting
from sasa.speed.stages import profiles
from sasa.speed.stop import Stop, StopMeasuringError
from sasa.speed.timing import torch_threads

PROFILE = "profile by stage"
COMPILED = "compiled-"  # begins the names of groups that compile for minutes
REFERENCE_FLOPS = 250e9  # a second, of one thread of the machine that `Group.overhead` was found on
SLOWEST = 3.0  # times slower than that: where the ceilings say more, the machine is busy, or has no such loop
PROFILE_SECONDS = 25.0  # there

Keep = Callable[[Report, Sequence[Result]], object]


@dataclass
class Run:
    """Measures the rows of a report.

    Args:
        report: is filled.
        groups: what measures, by name.
        stop: what may end the run early; entered by the caller, if signals are to be heard.
        say: gets a line before anything is measured: what, and how long that takes.
        keep: gets the report, and the results that are new in it: at the start, whenever something was measured, and at
            the end, then with the rows that were not.
    """

    report: Report
    groups: Mapping[str, Group]
    stop: Stop
    say: Callable[[str], object]
    keep: Keep

    def all(self, profile: bool) -> None:
        """Measure everything, or as much as the stop allows."""
        try:
            self.ceilings()
            steps = self.steps(profile)
            about = [self.about(name) for name in steps]
            self.say(f"{len(steps)} comparisons, at most about {roughly(sum(about))}")
            for place, (name, seconds) in enumerate(zip(steps, about, strict=True), 1):
                self.say(f"{name} ({place} of {len(steps)}), at most about {roughly(seconds)}")
                with self.stop.measuring():
                    results = self.profile() if name == PROFILE else self.group(name)
                self.keep(self.report, results)
            self.report.stopped = None
        except StopMeasuringError as stopped:
            self.report.stopped = str(stopped)
        self.keep(self.report, [result for result in self.report.table if result.row.name not in self.report.results])

    def steps(self, profile: bool) -> list[str]:
        """Names of the groups, the profile among them: before what compiles."""
        names = groups_of(self.report.rows)
        place = next((n for n, name in enumerate(names) if name.startswith(COMPILED)), len(names))
        return [*names[:place], *([PROFILE] if profile else []), *names[place:]]

    def about(self, name: str) -> float:
        """Seconds that a step takes at most, roughly."""
        flops = self.report.ceilings and self.report.ceilings.flops_one_thread
        slowness = min(SLOWEST, max(1.0, REFERENCE_FLOPS / flops)) if flops else SLOWEST
        return PROFILE_SECONDS * slowness if name == PROFILE else self.groups[name].about(self.report.setting, slowness)

    def ceilings(self) -> None:
        """What the machine can do at most."""
        report = self.report
        self.keep(report, [])  # from now on there is a report, whatever happens
        self.say("ceilings of the machine")
        sizes = {"size": 2**22, "seconds": 0.01} if report.quick else {}
        with self.stop.measuring():
            report.ceilings = measure_ceilings(report.setting.threads, **sizes)
        self.keep(report, [])

    def group(self, name: str) -> list[Result]:
        """The results of one group's rows. What fails is a result, and the other groups are measured all the same."""
        rows = [row for row in self.report.rows if row.group == name]
        began = time.perf_counter()
        try:
            self.report.measured[name] = self.compare(name)
            results = [judge(row, self.report.measured[name]) for row in rows]
        except NotMeasuredError as reason:
            results = [Result(row, note=str(reason), missing=IMPOSSIBLE) for row in rows]
        except Exception as error:  # too little memory, a broken installation, two sides that do not agree
            results = [Result(row, note=self.failed(name, error), missing=FAILED) for row in rows]
        self.report.seconds[name] = round(time.perf_counter() - began, 1)
        self.report.results |= {result.row.name: result for result in results}
        return results

    def compare(self, name: str) -> Measured:
        """The numbers of a group. Where AVX2 is all that there is, holding everything at AVX2 would change nothing."""
        plain = name.removeprefix(HELD)
        if plain == name or not avx2_is_all():
            return self.timed(name)
        measured = self.report.measured.get(plain) or self.timed(plain)
        return replace(measured, note=f"this machine has AVX2 and nothing wider: these are the numbers of {plain}")

    def timed(self, name: str) -> Measured:
        """The group's comparison with its share of the patience."""
        group, setting = self.groups[name], self.report.setting
        return group.compare(replace(setting, seconds=group.patience * setting.seconds))

    def profile(self) -> list[Result]:
        """The networks by stage."""
        try:
            self.report.profiles = profiles(self.report.setting)
        except Exception as error:
            self.failed(PROFILE, error)
        return []

    def failed(self, name: str, error: Exception) -> str:
        """Note a failure; the sentence that tells it."""
        line = (str(error).strip().splitlines() or [""])[0]
        self.report.failures[name] = f"{type(error).__name__}: {line}"
        return self.report.failures[name]


def run(
    rows: Sequence[Row],
    setting: Setting,
    groups: Mapping[str, Group] = GROUPS,
    *,
    profile: bool = False,
    quick: bool = False,
    stop: Stop | None = None,
    say: Callable[[str], object] = lambda sentence: None,
    keep: Keep = lambda report, results: None,
) -> Report:
    """Measure the rows, group by group, in one process.

    Args:
        rows: of `ROWS`.
        setting: sizes, rounds, threads.
        groups: all that the rows name.
        profile: measure the networks by stage as well.
        quick: whether the setting is the small one: told in the report.
        stop: see `Run`; without one, a signal does what it does elsewhere.
        say, keep: see `Run`.

    Returns:
        What was measured; `stopped` and `failures` say what was not.
    """
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    report = Report(setting, quick, date, machine(), rows)
    with torch_threads(setting.threads):
        Run(report, groups, stop or Stop(), say, keep).all(profile)
    return report
