"""What came of the runs of a table: results.csv, and table.md with the paper's numbers beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sasa.analysis.paper_cells import Cells
from sasa.errors import SasaError
from sasa.models.weights import atomic_write
from sasa.reproduce.paired import Mean, conclusion, mean, paired
from sasa.reproduce.plan import Plan
from sasa.reproduce.rows import NETWORKS, Row, title
from sasa.reproduce.runs import DIVERGED, DONE, Run
from sasa.training.run_folder import to_csv

VALIDATION_TABLES = ("3", "5")  # the paper's accuracies there are on a part of the training set
HEADINGS = (
    "",
    "params M, paper",
    "ours",
    "top-1 %, paper",
    "ours",
    "seeds",
    "difference, paper",
    "ours",
    "conclusion",
)


@dataclass(frozen=True)
class Result:
    """A row with what its runs gave: accuracies in % by seed, parameters, how many diverged."""

    row: Row
    top1: dict[int, float]
    parameters: int | None
    diverged: int

    @property
    def mean(self) -> Mean | None:
        """Over the seeds that are done."""
        return mean(list(self.top1.values()))


def results(plan: Plan, runs: Sequence[Run]) -> list[Result]:
    """In the order of the rows."""
    made = []
    for row in plan.rows:
        own = [run for run in runs if run.row.name == row.name]
        done = {run.seed: run.summary() for run in own if run.state == DONE}
        any_one = next(iter(done.values()), {})
        top1 = {seed: 100 * summary["held_out_top1"] for seed, summary in done.items()}
        diverged = sum(run.state == DIVERGED for run in own)
        made.append(Result(row, top1, any_one.get("parameters"), diverged))
    return made


def write_csv(plan: Plan, runs: Sequence[Run], path: Path) -> None:
    """A line for each run, done or not."""
    rows = []
    for run in runs:
        found = run.summary() if run.state == DONE else {}
        rows.append(
            {
                "table": plan.table,
                "dataset": plan.dataset,
                "scale": plan.scale,
                "row": run.row.name,
                "seed": run.seed,
                "state": run.state,
                "paper_top1": run.row.cells.top1 if run.row.cells else "",
                "top1": round(100 * found["held_out_top1"], 4) if found else "",
                "top5": round(100 * found["held_out_top5"], 4) if found else "",
                "loss": found.get("held_out_loss", ""),
                "pictures": found.get("held_out_pictures", ""),
                "parameters": found.get("parameters", ""),
                "epochs": found.get("epochs", ""),
            }
        )
    write(path, to_csv(list(rows[0]), rows))


def to_markdown(plan: Plan, runs: Sequence[Run], command: str) -> str:
    """The table with its conditions: what was scored, on what machine, by which command."""
    by_name = {result.row.name: result for result in results(plan, runs)}
    lines = [HEADINGS, *(_cells(result, by_name) for result in by_name.values())]
    rule = ["---", *("---:" for _ in HEADINGS[1:-1]), "---"]
    grid = "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    return f"# {title(plan.table)}: {plan.dataset}, {plan.scale}\n\n{grid}\n\n{conditions(plan, runs, command)}\n"


def _cells(result: Result, by_name: dict[str, Result]) -> tuple[str, ...]:
    cells, beside = result.row.cells, result.row.beside
    other = by_name[beside] if beside else None
    difference = paired(result.top1, other.top1) if other else None
    theirs = _paper_difference(cells, other.row.cells) if other else ""
    return (
        result.row.label,
        f"{cells.parameters:.1f}" if cells and cells.parameters else "",
        f"{result.parameters / 1e6:.2f}" if result.parameters else "",
        f"{cells.top1:.1f}" if cells else "",
        str(result.mean) if result.mean else "not run",
        f"{len(result.top1)}" + (f", {result.diverged} diverged" if result.diverged else ""),
        theirs,
        difference.signed() if difference else "",
        conclusion(difference) if difference else "",
    )


def _paper_difference(ours: Cells | None, other: Cells | None) -> str:
    if not ours or not other or ours.top1 is None or other.top1 is None:
        return ""
    return f"{ours.top1 - other.top1:+.1f}"


def conditions(plan: Plan, runs: Sequence[Run], command: str) -> str:
    """Sentences that a number must not be quoted without."""
    done = [run for run in runs if run.state == DONE]
    epochs = sorted({run.summary()["epochs"] for run in done})
    pictures = sorted({run.summary()["held_out_pictures"] for run in done})
    where = sorted({_machine(run.environment()) for run in done})
    split = "a validation split" if plan.table in VALIDATION_TABLES else "the test set"
    budget = f", by --budget {plan.budget}" if plan.budget else ""
    use = "no epoch, option or network was chosen by this number"
    if plan.validation:
        use = "what is chosen by this number wants another, without --validation"
    sentences = [
        f"Ours: {plan.dataset}, on {', '.join(map(str, pictures)) or 'no'} pictures: {_scored(plan)}. With the weights "
        f"of the end of each run: {use}.",
        f"Our networks: {NETWORKS[plan.dataset, plan.scale]}",
        f"Paper: ImageNet, {split}.",
        f"Epochs: {', '.join(map(str, epochs)) or 'none yet'}{budget}. Runs: {len(done)} of {len(runs)}.",
        *([f"Changed: {', '.join(f'{key}={value}' for key, value in plan.changes)}."] if plan.changes else []),
        f"Difference, in points: to {_beside(plan)}, seed by seed. Mean ± standard error over seeds; conclusion: "
        "t-test of the paired differences at 5 %, each row by itself.",
        *([f"Machine: {'; '.join(where)}."] if where else []),
        f"Command: `{command}`",
    ]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _scored(plan: Plan) -> str:
    drawn = "a part of the training pictures that was held out, drawn anew for each seed"
    if plan.validation or plan.dataset == "digits":
        return drawn
    return f"the test or validation pictures of the data itself, or where it has none, {drawn}"


def _beside(plan: Plan) -> str:
    names = dict.fromkeys(row.beside for row in plan.rows if row.beside)
    labels = [row.label for row in plan.rows if row.name in names]
    return f"“{labels[0]}”" if len(labels) == 1 else "the baseline of the same size"


def _machine(environment: dict[str, Any]) -> str:
    shown = [environment.get("device"), f"torch {environment['torch']}" if "torch" in environment else None]
    return ", ".join([text for text in (*shown, environment["day"]) if text])


def write(path: Path, text: str) -> None:
    """Replace a file, or say in a sentence why not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text.encode())
    except OSError as error:
        raise SasaError(f"cannot write {path}: {error.strerror or error}") from error
