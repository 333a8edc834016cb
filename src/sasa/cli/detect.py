"""`sasa detect train`, `sasa detect eval` and `sasa detect predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import (
    BadImageOption,
    BatchOption,
    DeviceOption,
    ImagesArgument,
    JsonOption,
    ModelOption,
    PerClassOption,
    WorkersOption,
    app,
    one_of,
)
from sasa.cli.evaluate import run_eval
from sasa.cli.output import check_directory_of, shorten, write_json
from sasa.cli.predict import LONGEST_LABEL, PredictCall, PredictionTable, run_predict
from sasa.cli.train import add_train
from sasa.errors import UsageError

if TYPE_CHECKING:
    from sasa.tasks.detection.predictor import Detected

detect = typer.Typer(help="Detect objects: boxes with classes and scores.", no_args_is_help=True)
app.add_typer(detect, name="detect")

add_train(
    detect,
    "detection",
    "Train a detector on images with boxes.",
    "Directory in COCO, Pascal VOC or YOLO format, or a COCO file: docs/data.md.",
    ("backbone",),
)


@detect.command("eval")
def evaluate(
    model: ModelOption,
    data: Annotated[str | None, typer.Option(help="Score on this data (default: the run's own).")] = None,
    split: Annotated[str, typer.Option(help="Split of the data.", **one_of("train", "val", "test"))] = "val",
    batch_size: BatchOption = 8,
    workers: WorkersOption = None,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Write the boxes to this file as COCO's results JSON, which other tools read.",
            callback=check_directory_of,
        ),
    ] = None,
    per_class: PerClassOption = False,
) -> None:
    """Score a trained detector: COCO's mean average precision, by size of the boxes and by class."""
    if json_file and results and json_file.resolve() == results.resolve():
        raise UsageError(f"--json and --results are both {results}: name two files")
    read = {"batch_size": batch_size, "workers": workers, "on_bad_image": on_bad_image}
    evaluation = run_eval("detection", model, device, json_file, per_class, data=data, split=split, **read)
    if results:
        write_json(results, evaluation.results)


@detect.command("predict")
def predict(
    images: ImagesArgument,
    model: ModelOption,
    score: Annotated[float, typer.Option(min=0.0, max=1.0, help="Lowest score of a box.")] = 0.3,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
    draw: Annotated[Path | None, typer.Option(help="Directory for a copy of each image with its boxes.")] = None,
) -> None:
    """Detect objects in images: print a line for each image; write JSON and drawings on request."""
    from sasa.models.boxes import Selection

    call = PredictCall(images, model, on_bad_image, device, json_file, draw)
    run_predict("detection", call, Selection(score=score), BoxTable())


class BoxTable(PredictionTable):
    """The path of each image and the number of its boxes by class."""

    def add(self, name: str, answer: "Detected") -> None:
        """Print one line."""
        typer.echo(f"{name}  {count_by_class(answer.labels)}")


def count_by_class(labels: list[str]) -> str:
    """Return "2 dog, 1 cat" for the labels of an image's boxes."""
    counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
    return ", ".join(f"{count} {shorten(label, LONGEST_LABEL)}" for label, count in counts.items()) or "nothing"
