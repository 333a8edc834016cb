"""A report of the acceptance table as Markdown and as a bar chart."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cpu.ceilings import Ceilings
from benchmarks.cpu.results import MEGABYTES, Report, RowResult
from benchmarks.cpu.rows import FACTOR, LARGEST, SHARE
from benchmarks.cpu.stages import Profile
from sasa.draw.charts import RIGHT, WRONG, new_figure, save_figure
from sasa.markdown import markdown_table

BUSY = 0.5  # load average of a machine on which something else is running
COLUMNS = ["row", "ours", "baseline", "value", "quartiles", "rounds", "goal", "must", "verdict"]


def to_text(report: Report) -> str:
    """Format the whole report: heading, table, ceilings, notes, profiles."""
    parts = [heading(report), markdown_table([COLUMNS, *map(cells, report.table)])]
    parts.append(str(report.ceilings or "ceilings of the machine: not measured"))
    if report.stopped:
        parts.append(f"The run was stopped: {report.stopped}. Rows without a value were not measured.")
    notes = dict.fromkeys(f"- {r.row.comparison}: {r.note}" for r in report.table if r.note)
    notes |= dict.fromkeys(f"- {name}: {message}" for name, message in report.failures.items())
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join([*parts, *(profile_table(profile, report.ceilings) for profile in report.profiles)])


def heading(report: Report) -> str:
    """Format date, machine and setting, and warnings."""
    setting, machine = report.setting, report.machine
    lines = [
        f"{report.date}, {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"{setting.threads} thread{'s' * (setting.threads > 1)}; {machine['vectors']}, our kernels: "
        f"{machine['kernels'] or 'not in use (attention runs eager)'}",
        f"batch {setting.batch}, {setting.side} x {setting.side}, channels_last; medians of at most {setting.rounds} "
        "interleaved rounds, ratios by round with their quartiles",
    ]
    if report.quick:
        lines.append("QUICK: small networks and few rounds, to try the command, not to be quoted")
    if (machine["load_before"] or 0) > BUSY:
        lines.append(f"the machine was busy before the run (load {machine['load_before']})")
    return "\n".join(lines)


def cells(result: RowResult) -> list[str]:
    """Format a row of the table."""
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


def value(number: float | None, kind: str) -> str:
    """Format a value, goal or must of a kind of row."""
    if number is None:
        return "-"
    return f"{number:.1e}" if kind == LARGEST else f"{number:.1f}x" if kind == FACTOR else f"{number:.3f}"


def amount(number: float | None, unit: str) -> str:
    """Format the median of a side."""
    if number is None:
        return "-"
    if unit == MEGABYTES:
        return f"{number:.0f} MB"
    return f"{number:.2f} ms" if unit.startswith("ms") else f"{number:.1e}"


def profile_table(profile: Profile, ceilings: Ceilings | None) -> str:
    """Format milliseconds an image by stage, beside the least that the ceilings allow."""
    total = sum(stage.milliseconds for stage in profile.stages)
    rows = [["stage", "ms", "share", "GFLOP", "GFLOP/s", "MB", "GB/s", "floor, ms"]]
    for stage in profile.stages:
        seconds = stage.milliseconds / 1000
        floor = ceilings.floor(stage.flops, stage.moved) if ceilings else None
        rows.append(
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
    rows.append(["sum", f"{total:.2f}", "", "", "", "", "", ""])
    return f"{profile.side}, {profile.passed}, an image:\n\n{markdown_table(rows)}"


def draw(results: Sequence[RowResult], title: str, path: Path) -> None:
    """Draw the measured shares as bars with goal, must and quartiles, as a PNG."""
    shown = [(r, r.value, r.lower or 0, r.upper or 0) for r in results if r.row.kind == SHARE and r.value is not None]
    figure = new_figure(9, 1.4 + 0.32 * len(shown))
    axes = figure.subplots()
    for place, (result, share, lower, upper) in enumerate(reversed(shown)):
        limits = {"-": result.row.goal, ":": result.row.must}
        colour = WRONG if result.verdict == "MISSED" else RIGHT
        whiskers = [[max(0.0, share - lower)], [max(0.0, upper - share)]]
        axes.barh(place, share, color=colour, alpha=0.75, xerr=whiskers, error_kw={"linewidth": 1})
        for style, limit in limits.items():
            if limit is not None:
                axes.plot([limit] * 2, [place - 0.45, place + 0.45], style, color="black", linewidth=1.5)
        axes.annotate(f" {share:.2f}", (max(share, upper), place), va="center", fontsize=8)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [result.row.title for result, *_ in reversed(shown)], fontsize=8)
    axes.set_xlim(0, 1.15 * max([1.2, *(upper for *_, upper in shown)]))
    axes.set_xlabel("ours / baseline, lower is better; line: goal, dots: must, whiskers: quartiles", fontsize=8)
    figure.suptitle(title, fontsize=8)
    save_figure(figure, path)
