"""`sasa eval`, and the body of every task's eval command."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasa.cli.app import (
    FEW,
    BadImageOption,
    BatchOption,
    DeviceOption,
    ModelOption,
    PerClassOption,
    WorkersOption,
    app,
    check_choices,
)
from sasa.cli.output import as_share, check_directory_of, print_columns, print_table, shorten, write_json

if TYPE_CHECKING:
    from sasa.tasks.classification.evaluation import ClassificationEvaluation
    from sasa.tasks.trained import Evaluation

LONGEST_LABEL = 40  # letters of a class name in a table; JSON has all of it


@dataclass(frozen=True)
class EvalCall:
    """The options that the eval commands have in common, apart from the data."""

    model: str
    device: str
    json_file: Path | None
    per_class: bool


def run_eval(
    task: str,
    call: EvalCall,
    data: dict[str, Any],
    files: tuple[Path | None, ...] = (),
    then: Callable[[Any], None] = lambda evaluation: None,
) -> None:
    """Score a trained network, print the figures, and write them to --json.

    Args:
        task: its name in the registry.
        call: the common options.
        data: of `EvaluationOptions`.
        files: that `then` will write: refused now if their directories are missing.
        then: prints and writes what only this task has.
    """
    check_choices(call.device, data["on_bad_image"])
    check_directory_of(call.json_file, *files)
    from sasa.tasks.registry import TASKS
    from sasa.tasks.trained import EvaluationOptions

    predictor = TASKS[task].predictor.load(call.model, call.device)
    evaluation = TASKS[task].evaluate(predictor, call.model, EvaluationOptions(**data))
    print_table(evaluation.summary())
    if call.per_class or len(evaluation.labels) <= FEW:
        print_classes(evaluation)
    for name in evaluation.skipped:
        typer.echo(f"skipped: {name} cannot be read", err=True)
    if call.json_file:
        write_json(call.json_file, evaluation.to_dict())
    then(evaluation)


def print_classes(evaluation: "Evaluation") -> None:
    """Print a line for each class; a dash where a figure is unknown."""
    heading, rows = evaluation.class_table()
    typer.echo()
    print_columns(heading, [[shorten(str(row[0]), LONGEST_LABEL), *map(_cell, row[1:])] for row in rows])


def _cell(value: float | None) -> str:
    return str(value) if isinstance(value, int) else as_share(value)


@app.command("eval")
def evaluate(
    model: ModelOption,
    data: Annotated[str | None, typer.Option(help="Held-out images of this data (default: the run's own).")] = None,
    batch_size: BatchOption = 64,
    workers: WorkersOption = None,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures and the confusion matrix to this file.")
    ] = None,
    confusion: Annotated[Path | None, typer.Option(help="Draw the confusion matrix to this file (PNG).")] = None,
    per_class: PerClassOption = False,
) -> None:
    """Score a trained network on held-out images: loss, top-1, top-5, recall and precision of each class."""

    def more(evaluation: "ClassificationEvaluation") -> None:
        if len(evaluation.labels) > FEW:
            print_confused(evaluation)
        if confusion:
            from sasa.draw.confusion import draw_confusion

            draw_confusion(evaluation.score.confusion, evaluation.labels, confusion)
            typer.echo(f"\ndrawn: {confusion}")

    how = {"data": data, "batch_size": batch_size, "workers": workers, "on_bad_image": on_bad_image}
    run_eval("classification", EvalCall(model, device, json_file, per_class), how, then=more)


def print_confused(evaluation: "ClassificationEvaluation") -> None:
    """Print the pairs of classes that were confused most often."""
    pairs = evaluation.confused()
    if not pairs:
        return
    rows = [
        [shorten(p.truth, LONGEST_LABEL), shorten(p.answer, LONGEST_LABEL), str(p.images), as_share(p.share)]
        for p in pairs
    ]
    typer.echo()
    print_columns(["true class", "taken for", "images", "of its images"], rows)
