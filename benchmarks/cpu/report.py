"""A report as text: the table, the ceilings, the stages. Markdown, so that it can go into a document as it is."""

from collections.abc import Sequence
from typing import Any

from sasa.speed.acceptance import Report, Result
from sasa.speed.ceilings import Ceilings
from sasa.speed.comparison import MEGABYTES
from sasa.speed.rows import FACTOR, LARGEST, Row
from sasa.speed.stages import Profile

BUSY = 0.5  # load average of a machine that is not left alone
COLUMNS = ("row", "ours", "baseline", "value", "quartiles", "rounds", "goal", "must", "verdict")
WIDTHS = (0, 10, 10, 7, 18, 6, 7, 7, 31)  # that hold any cell of these columns; the first is as wide as its titles


def to_text(report: Report) -> str:
    """The whole report."""
    return "\n\n".join([heading(report), table(report.table), *below_the_table(report)])


def below_the_table(report: Report) -> list[str]:
    """The ceilings, notes on the rows, whether the run was stopped, and the networks by stage."""
    parts = [str(report.ceilings or "ceilings of the machine: not measured")]
    if report.stopped:
        parts.append(f"The run was stopped: {report.stopped}. Rows without a value were not measured.")
    notes = dict.fromkeys(f"- {r.row.group}: {r.note}" for r in report.table if r.note)
    notes |= dict.fromkeys(f"- {name}: {said}" for name, said in report.failures.items())
    if notes:
        parts.append("\n".join(notes))
    return parts + [stage_table(profile, report.ceilings) for profile in report.profiles]


def heading(report: Report) -> str:
    """Date, machine, setting, and what makes the numbers doubtful."""
    setting, machine = report.setting, report.machine
    lines = [
        f"{report.date}, {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"{setting.threads} thread{'s' * (setting.threads > 1)}; {machine['vectors']}, our kernels: "
        f"{machine['kernels'] or 'not in use, attention runs eager'}",
        f"batch {setting.batch}, {setting.side} x {setting.side}, channels_last; medians of at most {setting.rounds} "
        "interleaved rounds, ratios by round with their quartiles",
    ]
    if report.quick:
        lines.append("QUICK: small networks and few rounds, to try the command; these are no measurements")
    if (machine["load_before"] or 0) > BUSY:
        lines.append(f"the machine was busy before the run (load {machine['load_before']}): measure on a quiet one")
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """One line a row."""
    return markdown([COLUMNS, *map(cells, results)])


def cells(result: Result) -> list[str]:
    """A line of the table."""
    row = result.row
    return [
        row.title,
        amount(result.ours, result.unit),
        amount(result.baseline, result.unit),
        value(result.value, row.kind),
        "-" if result.value is None else f"{value(result.lower, row.kind)} to {value(result.upper, row.kind)}",
        str(result.rounds or "-"),
        value(row.goal, row.kind),
        "report" if row.must is None else value(row.must, row.kind),
        result.verdict,
    ]


class GrowingTable:
    """The table line by line, before anybody knows its last one: columns that are wide enough for any result."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.widths = (max([len(COLUMNS[0]), *(len(row.title) for row in rows)]), *WIDTHS[1:])

    def head(self) -> str:
        """The names of the columns, and the rule below them."""
        return f"{to_line(COLUMNS, self.widths)}\n{rule(self.widths)}"

    def line(self, result: Result) -> str:
        """One row."""
        return to_line(cells(result), self.widths)


def value(number: float | None, kind: str) -> str:
    """What goal and must judge, with the digits that its kind deserves."""
    if number is None:
        return "-"
    return f"{number:.1e}" if kind == LARGEST else f"{number:.1f}x" if kind == FACTOR else f"{number:.3f}"


def amount(number: float | None, unit: str) -> str:
    """A side's median with its unit."""
    if number is None:
        return "-"
    if unit == MEGABYTES:
        return f"{number:.0f} MB"
    return f"{number:.2f} ms" if unit.startswith("ms") else f"{number:.1e}"


def stage_table(profile: Profile, ceilings: Ceilings | None) -> str:
    """Milliseconds an image by stage, beside the least that the measured ceilings allow."""
    total = sum(stage.milliseconds for stage in profile.stages)
    lines = [["stage", "ms", "share", "GFLOP", "GFLOP/s", "MB", "GB/s", "floor, ms"]]
    for stage in profile.stages:
        seconds = stage.milliseconds / 1000
        floor = ceilings.floor(stage.flops, stage.moved) if ceilings else None
        lines.append(
            [
                stage.name,
                f"{stage.milliseconds:.2f}",
                f"{stage.milliseconds / total:.0%}",
                f"{stage.flops / 1e9:.2f}",
                f"{stage.flops / seconds / 1e9:.0f}",
                f"{stage.moved / 1e6:.1f}",
                f"{stage.moved / seconds / 1e9:.1f}",
                "-" if floor is None else f"{1000 * floor:.2f}",
            ]
        )
    lines.append(["sum", f"{total:.2f}", "", "", "", "", "", ""])
    return f"{profile.side}, {profile.passed}, an image:\n\n{markdown(lines)}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table: the first line its head, the first column left-aligned, the others right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    head, *others = (to_line(line, widths) for line in lines)
    return "\n".join((head, rule(widths), *others))


def to_line(texts: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a table."""
    first, *others = zip(texts, widths, strict=True)
    return f"| {' | '.join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])} |"


def rule(widths: Sequence[int]) -> str:
    """What Markdown wants below the head."""
    first, *others = widths
    return f"| {' | '.join(['-' * first, *('-' * (width - 1) + ':' for width in others)])} |"


def by_name(lines: Sequence[dict[str, Any]]) -> str:
    """A table whose head is every name that a line has."""
    names = list({name: None for line in lines for name in line})
    return markdown([names, *([cell(line.get(name)) for name in names] for line in lines)])


def cell(value: Any) -> str:
    """Numbers with the digits that they deserve."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
