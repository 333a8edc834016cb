"""The results of a table's runs: results.csv, table.md with the paper's numbers beside ours, and figure.png.

The figure is Figure 5, or accuracy over the window size k of Table 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sasa.draw.charts import new_figure, save_figure
from sasa.files import write_file
from sasa.reproduce.plan import Plan
from sasa.reproduce.rows import DETECTION, TableRow, title
from sasa.reproduce.runs import DIVERGED, DONE, Run, scored_on_drawn
from sasa.reproduce.scores import Mean, column, conclusion, mean, measure_of, paired
from sasa.reproduce.setups import FIGURE
from sasa.training.run_directory import to_csv

VALIDATION_TABLES = ("3", "5")  # scored by the paper on a part of the training set
DRAWN = ("4", FIGURE)
HEADINGS = (
    "",
    "params M, paper",
    "ours",
    "{measure} %, paper",
    "ours",
    "seeds",
    "difference, paper",
    "ours",
    "conclusion",
)


@dataclass(frozen=True)
class Result:
    """A row with the results of its runs: scores in % by seed, parameters, how many diverged; and the paper's score."""

    row: TableRow
    paper: float | None
    scores: dict[int, float]
    parameters: int | None
    diverged: int

    @property
    def mean(self) -> Mean | None:
        """The mean over the seeds that are done."""
        return mean(list(self.scores.values()))


def results(plan: Plan, runs: Sequence[Run]) -> list[Result]:
    """Compute the result of each row, in the order of the rows."""
    made, measure = [], measure_of(plan.table)
    for row in plan.rows:
        own = [run for run in runs if run.row.name == row.name]
        done = {run.seed: run.summary() for run in own if run.state == DONE}
        any_one = next(iter(done.values()), {})
        scores = {seed: measure.ours(summary) for seed, summary in done.items()}
        diverged = sum(run.state == DIVERGED for run in own)
        made.append(Result(row, measure.paper(row.cells), scores, any_one.get("parameters"), diverged))
    return made


def write_csv(plan: Plan, runs: Sequence[Run], path: Path) -> None:
    """Write results.csv, with a line for each run, done or not."""
    rows, measure = [], measure_of(plan.table)
    for run in runs:
        paper = measure.paper(run.row.cells)
        found = run.summary() if run.state == DONE else {}
        rows.append(
            {
                "table": plan.table,
                "dataset": plan.dataset,
                "scale": plan.scale,
                "row": run.row.name,
                "seed": run.seed,
                "state": run.state,
                f"paper_{column(measure.key)}": "" if paper is None else paper,
                **{column(key): _in_csv(key, found.get(key)) for key in (measure.key, *measure.others)},
                "pictures": found.get("held_out_pictures", ""),
                "parameters": found.get("parameters", ""),
                "epochs": found.get("epochs", ""),
            }
        )
    write_file(path, to_csv(list(rows[0]), rows))


def _in_csv(key: str, value: float | None) -> float | str:
    """Convert a fraction to %; a loss is unchanged."""
    if value is None:
        return ""
    return value if key.endswith("loss") else round(100 * value, 4)


def to_markdown(plan: Plan, runs: Sequence[Run], command: str) -> str:
    """Return the table in Markdown with its conditions: the scored images, the machine, the command."""
    by_name = {result.row.name: result for result in results(plan, runs)}
    headings = [heading.format(measure=measure_of(plan.table).name) for heading in HEADINGS]
    lines = [headings, *(_cells(result, by_name) for result in by_name.values())]
    rule = ["---", *("---:" for _ in HEADINGS[1:-1]), "---"]
    grid = "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    return f"# {title(plan.table)}: {plan.dataset}, {plan.scale}\n\n{grid}\n\n{conditions(plan, runs, command)}\n"


def _cells(result: Result, by_name: dict[str, Result]) -> tuple[str, ...]:
    cells, beside = result.row.cells, result.row.beside
    other = by_name[beside] if beside else None
    difference = paired(result.scores, other.scores) if other else None
    return (
        result.row.label,
        f"{cells.parameters:.1f}" if cells and cells.parameters else "",
        f"{result.parameters / 1e6:.2f}" if result.parameters else "",
        "" if result.paper is None else f"{result.paper:.1f}",
        str(result.mean) if result.mean else "not run",
        f"{len(result.scores)}" + (f", {result.diverged} diverged" if result.diverged else ""),
        f"{result.paper - other.paper:+.1f}" if other and result.paper and other.paper else "",
        difference.signed() if difference else "",
        conclusion(difference) if difference else "",
    )


def conditions(plan: Plan, runs: Sequence[Run], command: str) -> str:
    """Return sentences on the conditions that all numbers of the table share."""
    done = [run for run in runs if run.state == DONE]
    epochs = sorted({run.summary()["epochs"] for run in done})
    images = sorted({run.summary()["held_out_pictures"] for run in done})
    where = sorted({run.machine() for run in done})
    budget = f", by --budget {plan.budget}" if plan.budget else ""
    use = "no epoch, option or network was chosen by this number"
    if plan.validation:
        use = "a choice made by this number has to be scored again, without --validation"
    sentences = [
        f"Ours: {plan.dataset}, on {', '.join(map(str, images)) or 'no'} images: {_scored(plan, runs)}. With the "
        f"weights of the end of each run: {use}.",
        f"Our networks: {plan.setup.differs}",
        f"Paper: {_papers_images(plan.table)}.",
        f"Epochs: {', '.join(map(str, epochs)) or 'none yet'}{budget}. Runs: {len(done)} of {len(runs)}.",
        *([f"Changed: {', '.join(f'{key}={value}' for key, value in plan.changes)}."] if plan.changes else []),
        f"Difference, in points: to {_beside(plan)}, seed by seed. Mean ± standard error over seeds; conclusion: "
        "t-test of the paired differences at 5 %, each row by itself.",
        *([f"Machine: {'; '.join(where)}."] if where else []),
        f"Command: `{command}`",
    ]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _scored(plan: Plan, runs: Sequence[Run]) -> str:
    own = "the validation images" if plan.table == DETECTION else "the test or validation images"
    drawn = "a part of the training images that was held out, drawn anew for each seed"
    found = scored_on_drawn(runs)
    if plan.validation or found == {True}:
        return drawn
    return f"{own} of the data itself" + ("" if found else f", or where it has none, {drawn}")


def _papers_images(table: str) -> str:
    if table == DETECTION:
        return "COCO (the paper does not say which part)"
    return f"ImageNet, {'a validation split' if table in VALIDATION_TABLES else 'the test set'}"


def _beside(plan: Plan) -> str:
    names = dict.fromkeys(row.beside for row in plan.rows if row.beside)
    labels = [row.label for row in plan.rows if row.name in names]
    return f"“{labels[0]}”" if len(labels) == 1 else "the baseline of the same size"


def draw(plan: Plan, found: Sequence[Result], path: Path) -> None:
    """Draw the figure of a table with these results as a PNG, if it has one and a run is done."""
    done = [result for result in found if result.mean]
    if plan.table not in DRAWN or not done:
        return
    figure = _widths(plan, done) if plan.table == FIGURE else _window(done)
    figure.suptitle(f"{plan.dataset}, {plan.scale}: mean and standard error over seeds", fontsize=9)
    save_figure(figure, path)


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
