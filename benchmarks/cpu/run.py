"""A run of the acceptance table: comparison by comparison in one process, each reported as soon as it is measured."""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.common import describe_machine, first_line
from benchmarks.cpu.ceilings import measure_ceilings
from benchmarks.cpu.comparisons import Comparison
from benchmarks.cpu.fresh_process import NotPossibleError
from benchmarks.cpu.results import FAILED, IMPOSSIBLE, Report, RowResult, judge
from benchmarks.cpu.rows import AcceptanceRow, comparisons_of
from benchmarks.cpu.setting import Setting
from benchmarks.cpu.stages import profiles
from sasa.speed import Stop, StopMeasuringError

PROFILE = "profile by stage"
COMPILED = "compiled-"  # begins the names of comparisons that compile for minutes


def new_report(rows: Sequence[AcceptanceRow], setting: Setting, quick: bool = False) -> Report:
    """Make an empty report."""
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return Report(setting, quick, date, describe_machine(), rows)


@dataclass
class TableRun:
    """Measures the rows of a report.

    Args:
        report: to be filled.
        comparisons: by name; has all that the rows name.
        stop: may end the run early. The caller enters it.
        say: called with a sentence before each measurement.
        keep: called with the report and its new results: at the start, after each measurement, and at the end with the
            rows that were not measured.
    """

    report: Report
    comparisons: Mapping[str, Comparison]
    stop: Stop | None = None
    say: Callable[[str], object] = lambda sentence: None
    keep: Callable[[Report, Sequence[RowResult]], object] = lambda report, results: None

    def measure(self, profile: bool = False) -> Report:
        """Measure everything, or as much as the stop allows, with the networks by stage if `profile`."""
        stop, report = self.stop or Stop(), self.report
        steps = self._steps(profile)
        self.keep(report, [])  # there is a report from now on, even if the process is killed
        try:
            for place, name in enumerate(steps, 1):
                self.say(f"{name} ({place} of {len(steps)})")
                with stop.measuring():
                    results = steps[name]()
                self.keep(report, results)
            report.stopped = None
        except StopMeasuringError as stopped:
            report.stopped = str(stopped)
        self.keep(report, [result for result in report.table if result.row.name not in report.results])
        return report

    def _steps(self, profile: bool) -> dict[str, Callable[[], list[RowResult]]]:
        """What to measure, in order; the profile before what compiles."""
        names = comparisons_of(self.report.rows)
        steps: dict[str, Callable[[], list[RowResult]]] = {"ceilings of the machine": self._ceilings}
        steps |= {name: lambda name=name: self._compare(name) for name in names if not name.startswith(COMPILED)}
        steps |= {PROFILE: self._profile} if profile else {}
        return steps | {name: lambda name=name: self._compare(name) for name in names if name.startswith(COMPILED)}

    def _ceilings(self) -> list[RowResult]:
        sizes = {"size": 2**22, "seconds": 0.01} if self.report.quick else {}
        self.report.ceilings = measure_ceilings(self.report.setting.threads, **sizes)
        return []

    def _compare(self, name: str) -> list[RowResult]:
        """Measure the rows of a comparison. A failure is a result, and the other comparisons are measured."""
        report, comparison = self.report, self.comparisons[name]
        rows = [row for row in report.rows if row.comparison == name]
        began = time.perf_counter()
        try:
            setting = replace(report.setting, seconds=comparison.share * report.setting.seconds)
            report.measured[name] = comparison.measure(setting)
            results = [judge(row, report.measured[name]) for row in rows]
        except NotPossibleError as reason:
            results = [RowResult(row, note=str(reason), missing=IMPOSSIBLE) for row in rows]
        except Exception as error:  # too little memory, a broken installation, sides that disagree
            report.failures[name] = first_line(error)
            results = [RowResult(row, note=report.failures[name], missing=FAILED) for row in rows]
        report.seconds[name] = round(time.perf_counter() - began, 1)
        report.results |= {result.row.name: result for result in results}
        return results

    def _profile(self) -> list[RowResult]:
        try:
            self.report.profiles = profiles(self.report.setting)
        except Exception as error:
            self.report.failures[PROFILE] = first_line(error)
        return []
