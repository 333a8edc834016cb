"""`sasa predict`, and the function that every task's predict command calls."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasa.cli.app import BadImageOption, DeviceOption, ImagesArgument, JsonOption, ModelOption, app
from sasa.cli.output import shorten, write_json
from sasa.errors import DataError

if TYPE_CHECKING:
    from sasa.tasks.classification.predictor import Prediction
    from sasa.tasks.trained import TrainedNetwork

LONGEST_LABEL = 24  # characters in the table; JSON has the whole name


@dataclass(frozen=True)
class PredictCall:
    """The options that all predict commands share."""

    images: list[str]
    model: str
    on_bad_image: str
    device: str
    json_file: Path | None
    draw: Path | None


def run_predict(task: str, call: PredictCall, options: Any, table: "PredictionTable") -> None:
    """Predict images in batches, print a line for each, and write JSON and drawings on request.

    Args:
        task: its name in the registry.
        call: the common options.
        options: options of the task's predictor.
        table: prints the predictions.

    Raises:
        UsageError: an output file is one of the images.
        DataError: an image cannot be read (with --on-bad-image error), or none can.
        SasaError: not a trained network, or a file that cannot be written.
    """
    from sasa.cli.drawing import open_drawing
    from sasa.cli.inputs import check_not_input, find_images
    from sasa.data.text import printable
    from sasa.tasks.registry import TASKS

    predictor = TASKS[task].predictor.load(call.model, call.device)
    paths, skipped, predictions = find_images(call.images), [], []
    if call.json_file:
        check_not_input("--json", call.json_file, paths)
    drawing = open_drawing(task, call.draw, paths, predictor)
    readable = read_all(predictor, paths, skipped if call.on_bad_image == "skip" else None)
    table.heading([printable(path) for path in paths], predictor.labels)
    for answer, kept in predictor.stream(readable, options, drawing.keep):
        table.add(printable(answer.name), answer)
        drawing.add(answer, kept)
        if call.json_file:
            predictions.append(answer.to_dict())
    for sentence in skipped:
        typer.echo(f"skipped: {sentence}", err=True)
    if len(skipped) == len(paths):
        raise DataError(f"none of the {len(paths)} images can be read")
    if call.json_file:
        write_json(call.json_file, predictions)
    if call.draw:
        typer.echo(drawing.close())


class PredictionTable:
    """Print a line for each image; base class of the tasks' tables."""

    def heading(self, names: list[str], labels: list[str]) -> None:
        """Print the heading; it is called once, before the first prediction, with all names of images and classes."""

    def add(self, name: str, answer: Any) -> None:
        """Print the prediction of one image."""
        raise NotImplementedError


def read_all(predictor: "TrainedNetwork", paths: list[Path], skipped: list[str] | None) -> Iterator[tuple[str, Any]]:
    """Yield (path, image) one by one.

    Args:
        predictor: reads the images.
        paths: of the images.
        skipped: a list to which the message about each unreadable image is added; None raises it.

    Raises:
        DataError: an image cannot be read, and `skipped` is None.
    """
    for path in paths:
        try:
            yield str(path), predictor.read(path)
        except DataError as error:
            if skipped is None:
                raise
            skipped.append(str(error))


@app.command()
def predict(
    images: ImagesArgument,
    model: ModelOption,
    top: Annotated[int, typer.Option(min=1, help="Classes to list.")] = 5,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
    draw: Annotated[
        Path | None,
        typer.Option(help="FILE.png: a grid of the first 64 images. A directory: a drawing of each image."),
    ] = None,
) -> None:
    """Predict the classes of images: the most likely classes of each, with their softmax."""
    run_predict("classification", PredictCall(images, model, on_bad_image, device, json_file, draw), top, TopTable(top))


class TopTable(PredictionTable):
    """The most likely classes of each image and their softmax, with columns as wide as the longest name."""

    def __init__(self, top: int) -> None:
        self.top = top

    def heading(self, names: list[str], labels: list[str]) -> None:
        """Print "image  top 1  top 2  ..."."""
        self.name = min(60, max(len("image"), *map(len, names)))
        self.label = min(LONGEST_LABEL, max(map(len, labels)))
        columns = "  ".join(f"top {n + 1}".ljust(self.label + 7) for n in range(min(self.top, len(labels))))
        typer.echo(f"{'image':<{self.name}}  {columns.rstrip()}")

    def add(self, name: str, answer: "Prediction") -> None:
        """Print one line."""
        best = zip(answer.labels, answer.shares, strict=True)
        cells = "  ".join(f"{shorten(label, LONGEST_LABEL):<{self.label}} {share:>6.1%}" for label, share in best)
        typer.echo(f"{name:<{self.name}}  {cells}")
