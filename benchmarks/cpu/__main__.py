"""The acceptance table: attention beside the convolution it replaces, with goals, on this CPU.

    python -m benchmarks.cpu                                     # everything: `make bench`
    python -m benchmarks.cpu inference training --rounds 9       # comparisons, or rows ("memory/full")
    python -m benchmarks.cpu 'avx2*' --budget 3m                 # shell patterns, within three minutes
    python -m benchmarks.cpu cores --profile                     # and every network by stage
    python -m benchmarks.cpu --quick                             # small networks, to try the command

Rows are printed, and files replaced, as soon as they are measured. After Ctrl-C, SIGTERM or the end of the budget, the
other rows are "not measured: stopped".
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import plain
from benchmarks.cpu.comparisons import COMPARISONS
from benchmarks.cpu.report import COLUMNS, cells, draw, heading, to_text
from benchmarks.cpu.results import Report, RowResult
from benchmarks.cpu.rows import choose
from benchmarks.cpu.run import TableRun, new_report
from benchmarks.cpu.setting import Setting
from sasa.durations import parse_budget
from sasa.errors import SasaError
from sasa.files import atomic_write
from sasa.speed import Stop, torch_threads


@dataclass
class ReportFiles:
    """Prints results as they come, and replaces NAME.md, NAME.json and NAME.png with the report so far.

    Args:
        name: path without the suffix; None writes no files.
    """

    name: Path | None

    def __call__(self, report: Report, results: Sequence[RowResult]) -> None:
        """Print new results and save the report."""
        for result in results:
            texts = [f"{column} {text}" for column, text in zip(COLUMNS, cells(result), strict=True) if text != "-"]
            print(", ".join(texts).removeprefix(f"{COLUMNS[0]} "), flush=True)
        if self.name:
            atomic_write(self.name.with_suffix(".md"), f"{to_text(report)}\n".encode())
            atomic_write(self.name.with_suffix(".json"), f"{json.dumps(plain(report.to_dict()), indent=2)}\n".encode())
            draw(report.table, heading(report), self.name.with_suffix(".png"))


def say(sentence: str) -> None:
    """Print what is being measured."""
    print(f"measuring: {sentence}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows, comparisons or shell patterns [default: all]")
    parser.add_argument("--rounds", type=int, help="maximum number of turns of each side")
    parser.add_argument("--threads", type=int, help="number of torch's threads")
    parser.add_argument("--budget", type=parse_budget, help="stop after this time, e.g. 10m")
    parser.add_argument("--profile", action="store_true", help="profile the networks by stage")
    parser.add_argument("--quick", action="store_true", help="small networks, to try the command")
    parser.add_argument("--output", type=Path, metavar="NAME", help="write NAME.md, NAME.json and NAME.png")
    words = parser.parse_args(arguments)
    rows = choose(words.rows)
    setting = Setting.make(quick=words.quick, rounds=words.rounds, threads=words.threads)
    if words.output:
        words.output.parent.mkdir(parents=True, exist_ok=True)
    with Stop(words.budget) as stop, torch_threads(setting.threads):
        report = new_report(rows, setting, words.quick)
        print(heading(report), flush=True)
        run = TableRun(report, COMPARISONS, stop, say, ReportFiles(words.output))
        run.measure(words.profile)
    print(f"\n{to_text(report)}", flush=True)
    if stop.signal_number is not None:
        return 128 + stop.signal_number
    return 1 if report.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SasaError as error:
        sys.exit(f"benchmarks.cpu: {error}")
