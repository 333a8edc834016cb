"""A report as text: the table, the ceilings, the stages. Markdown, so that it can go into a document as it is."""

from collections.abc import Sequence
from typing import Any

from sasa.analysis.speed.acceptance import FACTOR, LARGEST, Report, Result
from sasa.analysis.speed.ceilings import Ceilings
from sasa.analysis.speed.groups import MEGABYTES
from sasa.analysis.speed.stages import Profile

BUSY = 0.5  # load average of a machine that is not left alone


def to_text(report: Report) -> str:
    """The whole report."""
    parts = [heading(report), str(report.ceilings), table(report.results)]
    notes = dict.fromkeys(f"- {r.row.group}: {r.note}" for r in report.results if r.note)
    if notes:
        parts.append("\n".join(notes))
    parts += [stage_table(profile, report.ceilings) for profile in report.profiles]
    return "\n\n".join(parts)


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
    lines = [["row", "ours", "baseline", "value", "quartiles", "goal", "must", "verdict"]]
    for result in results:
        row = result.row
        lines.append(
            [
                row.title,
                amount(result.ours, result.unit),
                amount(result.baseline, result.unit),
                value(result.value, row.kind),
                "-" if result.value is None else f"{value(result.lower, row.kind)} to {value(result.upper, row.kind)}",
                value(row.goal, row.kind),
                "report" if row.must is None else value(row.must, row.kind),
                result.verdict,
            ]
        )
    return markdown(lines)


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


def stage_table(profile: Profile, ceilings: Ceilings) -> str:
    """Milliseconds an image by stage, beside the least that the measured ceilings allow."""
    total = sum(stage.milliseconds for stage in profile.stages)
    lines = [["stage", "ms", "share", "GFLOP", "GFLOP/s", "MB", "GB/s", "floor, ms"]]
    for stage in profile.stages:
        seconds = stage.milliseconds / 1000
        floor = ceilings.floor(stage.flops, stage.moved)
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
    padded = [
        [cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    rule = ["-" * w if n == 0 else "-" * (w - 1) + ":" for n, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


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
