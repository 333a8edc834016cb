"""`sasa predict`, and the body of every task's predict command."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasa.cli.app import BadImageOption, DeviceOption, ImagesArgument, ModelOption, app, check_choices
from sasa.cli.output import check_directory_of, shorten, write_json
from sasa.errors import DataError, UsageError

if TYPE_CHECKING:
    from sasa.cli.drawing import Drawing
    from sasa.tasks.classification.predictor import Prediction
    from sasa.tasks.trained import TrainedNetwork

LONGEST_LABEL = 24  # letters in the table; JSON has the whole names


@dataclass(frozen=True)
class PredictCall:
    """The options that the predict commands have in common."""

    images: list[str]
    model: str
    on_bad_image: str
    device: str
    json_file: Path | None
    draw: Path | None


# (its path, the images' paths, the network) -> drawing
OpenDrawing = Callable[[Path, list[Path], Any], "Drawing"]
# (the images' paths, the network) -> a function that prints an answer
OpenTable = Callable[[list[Path], Any], Callable[[Any], None]]


def run_predict(task: str, call: PredictCall, options: Any, open_table: OpenTable, open_drawing: OpenDrawing) -> None:
    """Predict images in batches, print a line for each, and write JSON and drawings if asked for.

    Args:
        task: its name in the registry.
        call: the common options.
        options: of the task's predictor.
        open_table, open_drawing: what prints and what draws the task's answers.
    """
    check_choices(call.device, call.on_bad_image)
    check_directory_of(call.json_file)
    from sasa.cli.inputs import find_images
    from sasa.tasks.registry import TASKS

    predictor = TASKS[task].predictor.load(call.model, call.device)
    paths, skipped, written = find_images(call.images), [], []
    if call.json_file and call.json_file.resolve() in {path.resolve() for path in paths}:
        raise UsageError(f"--json {call.json_file} is one of the images to look at: name another file")
    drawing = open_drawing(call.draw, paths, predictor) if call.draw else None
    keep = {"keep": drawing.keep} if drawing else {}
    readable = read_all(predictor, paths, skipped if call.on_bad_image == "skip" else None)
    print_answer = open_table(paths, predictor)
    for answer, kept in predictor.stream(readable, options, **keep):
        print_answer(answer)
        if call.json_file:
            written.append(answer.to_dict())
        if drawing:
            drawing.add(answer, kept)
    for sentence in skipped:
        typer.echo(f"skipped: {sentence}", err=True)
    if len(skipped) == len(paths):
        raise DataError(f"none of the {len(paths)} images can be read")
    if call.json_file:
        write_json(call.json_file, written)
    if drawing:
        typer.echo(drawing.close())


def read_all(predictor: "TrainedNetwork", paths: list[Path], skipped: list[str] | None) -> Iterator[tuple[str, Any]]:
    """Yield (name, image) one by one; if `skipped` is a list, it gets the message about an unreadable image."""
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
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the predictions to this file.")] = None,
    draw: Annotated[
        Path | None,
        typer.Option(help="A name that ends in .png gets a grid of the first 64; a directory one drawing an image."),
    ] = None,
) -> None:
    """Predict the classes of images: the most likely ones of each, with their softmax."""

    def open_drawing(path: Path, inputs: list[Path], predictor: Any) -> "Drawing":
        from sasa.cli.drawing import ClassDirectory, Grid

        kind = Grid if path.suffix.lower() == ".png" and not path.is_dir() else ClassDirectory
        return kind(path, inputs, predictor)

    def open_table(paths: list[Path], predictor: Any) -> Callable[[Any], None]:
        return Table(paths, predictor.labels, top).add

    call = PredictCall(images, model, on_bad_image, device, json_file, draw)
    run_predict("classification", call, top, open_table, open_drawing)


class Table:
    """A line for each image, printed at once: the widest path and class name are known before."""

    def __init__(self, paths: list[Path], labels: list[str], top: int) -> None:
        self.name = min(60, max(len("image"), *(len(str(path)) for path in paths)))
        self.label = min(LONGEST_LABEL, max(map(len, labels)))
        heading = "  ".join(f"top {n + 1}".ljust(self.label + 7) for n in range(min(top, len(labels))))
        typer.echo(f"{'image':<{self.name}}  {heading.rstrip()}")

    def add(self, prediction: "Prediction") -> None:
        """Print one line."""
        best = zip(prediction.labels, prediction.shares, strict=True)
        cells = "  ".join(f"{shorten(label, LONGEST_LABEL):<{self.label}} {share:>6.1%}" for label, share in best)
        typer.echo(f"{prediction.name:<{self.name}}  {cells}")
