"""figure.png of a table: Figure 5, and accuracy over the window size k of Table 4."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sasa.draw.charts import new_figure, save_figure
from sasa.reproduce.plan import Plan
from sasa.reproduce.results import Result
from sasa.reproduce.setups import FIGURE

DRAWN = ("4", FIGURE)


def draw(plan: Plan, found: Sequence[Result], path: Path) -> bool:
    """Draw the table's figure if it has one and a run is done; return whether it was drawn.

    Args:
        plan: whose table it is.
        found: its rows.
        path: the PNG.
    """
    done = [result for result in found if result.mean]
    if plan.table not in DRAWN or not done:
        return False
    figure = _widths(plan, done) if plan.table == FIGURE else _window(done)
    figure.suptitle(f"{plan.dataset}, {plan.scale}: mean and standard error over seeds", fontsize=9)
    save_figure(figure, path)
    return True


def _window(done: list[Result]) -> Any:
    """Our accuracy beside the paper's, each on its own axis because the data sets differ in difficulty."""
    figure = new_figure(5.5, 3.6)
    axes = figure.subplots()
    sides = [int(result.row.name[1:]) for result in done]
    _points(axes, sides, done, "ours", "C0")
    axes.set(xlabel="k, pixels", ylabel="top-1, %, ours", xticks=sides)
    paper = axes.twinx()
    paper.plot(sides, [r.row.cells.top1 for r in done if r.row.cells], "s--", color="C1", label="paper, ImageNet")
    paper.set_ylabel("top-1, %, paper (ImageNet)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _widths(plan: Plan, done: list[Result]) -> Any:
    """Accuracy over parameters and over FLOPS, a curve for each kind of network."""
    figure = new_figure(9, 3.8)
    flops = {result.row.name: plan.count(result.row).flops for result in done}
    costs = (("parameters, M", lambda r: r.parameters / 1e6), ("FLOPS, B", lambda r: flops[r.row.name] / 1e9))
    both = figure.subplots(1, 2, sharey=True)
    for axes, (label, cost) in zip(both, costs, strict=True):
        kinds = dict.fromkeys(result.row.name.partition("_")[2] for result in done)
        for number, kind in enumerate(kinds):
            own = [result for result in done if result.row.name.endswith(f"_{kind}")]
            _points(axes, [cost(result) for result in own], own, own[0].row.label.partition(", ")[0], f"C{number}")
        axes.set(xlabel=label, ylabel="top-1, %")
        axes.grid(alpha=0.3)
    both[1].legend(fontsize=8)
    return figure


def _points(axes: Any, places: Sequence[float], done: list[Result], label: str, colour: str) -> None:
    means = [result.mean for result in done if result.mean]
    errors = [m.error or 0.0 for m in means]
    axes.errorbar(places, [m.mean for m in means], errors, fmt="o-", capsize=3, label=label, color=colour)
