"""`sasa eval`, and the function that every task's eval command calls."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasa.cli.app import (
    FEW,
    BadImageOption,
    BatchOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PerClassOption,
    WorkersOption,
    app,
)
from sasa.cli.output import as_share, check_figure, print_columns, print_table, shorten, write_json

if TYPE_CHECKING:
    from sasa.tasks.classification.evaluation import ClassificationEvaluation
    from sasa.tasks.trained import Evaluation

LONGEST_LABEL = 40  # characters of a class name in a table; JSON has the whole name


def run_eval(task: str, model: str, device: str, json_file: Path | None, per_class: bool, **options: Any) -> Any:
    """Score a trained network, print the figures, and write them to a JSON file; return the task's evaluation.

    Args:
        task: its name in the registry.
        model, device, json_file, per_class: options of the command.
        options: the fields of `EvaluationOptions`.
    """
    from sasa.tasks.registry import TASKS
    from sasa.tasks.trained import EvaluationOptions

    predictor = TASKS[task].predictor.load(model, device)
    evaluation = TASKS[task].evaluate(predictor, model, EvaluationOptions(**options))
    print_table(evaluation.summary())
    if per_class or len(evaluation.labels) <= FEW:
        print_classes(evaluation)
    for name in evaluation.skipped:
        typer.echo(f"skipped: {name} cannot be read", err=True)
    if json_file:
        write_json(json_file, evaluation.to_dict())
    return evaluation


def print_classes(evaluation: "Evaluation") -> None:
    """Print a line for each class; a dash for an unknown figure."""
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
    json_file: JsonOption = None,
    confusion: Annotated[
        Path | None, typer.Option(help="Draw the confusion matrix to this file (PNG).", callback=check_figure)
    ] = None,
    per_class: PerClassOption = False,
) -> None:
    """Score a trained network on held-out images: loss, top-1, top-5, recall and precision of each class."""
    data_options = {"data": data, "batch_size": batch_size, "workers": workers, "on_bad_image": on_bad_image}
    evaluation = run_eval("classification", model, device, json_file, per_class, **data_options)
    if len(evaluation.labels) > FEW:
        print_confused(evaluation)
    if confusion:
        from sasa.draw.charts import draw_confusion

        draw_confusion(evaluation.score.confusion, evaluation.labels, confusion)
        typer.echo(f"\ndrawn: {confusion}")


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
