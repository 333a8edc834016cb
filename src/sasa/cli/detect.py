"""`sasa detect train`, `sasa detect eval` and `sasa detect predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import BadImageOption, DeviceOption, ModelOption, app, one_of
from sasa.cli.output import as_share, check_folder_of, print_columns, print_table, shorten, write_json
from sasa.cli.train import DEVICES, begin, go_on
from sasa.errors import DataError, UsageError

if TYPE_CHECKING:
    from sasa.tasks.detection.evaluation import DetectionScored

detect = typer.Typer(help="Find things: boxes with classes and scores.", no_args_is_help=True)
app.add_typer(detect, name="detect")

FEW = 20  # classes whose table is printed without being asked for


@detect.command("train")
def train(
    config: Annotated[str | None, typer.Option(help="YAML file, or a recipe of the package (default: small).")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a detector: retinanet_...")] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of COCO's JSON or Pascal VOC's XML, or a JSON file: docs/detection.md.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images of a step.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Run of sasa train (or hf:OWNER/NAME) whose weights the backbone starts from.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="|".join(DEVICES), help="Where it runs.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read images.")] = None,
    on_bad_image: Annotated[
        str | None, typer.Option(metavar="error|skip", help="An image that cannot be read: stop, or leave it out.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/MODEL-N).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. data.image_size=512")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved config and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build all, take two steps, write nothing.")] = False,
) -> None:
    """Train a detector on your own boxes."""
    from sasa.tasks.detection.config import resolve
    from sasa.training.settings import parse_setting

    shortcuts = {
        "model.name": model,
        "data.source": data,
        "recipe.epochs": epochs,
        "recipe.batch_size": batch_size,
        "recipe.backbone": backbone,
        "run.accelerator": one_of("--device", device, DEVICES),
        "data.workers": workers,
        "data.on_bad_image": one_of("--on-bad-image", on_bad_image, ("error", "skip")),
    }
    changes = [(key, value) for key, value in shortcuts.items() if value is not None]
    changes += [parse_setting(text) for text in set_ or []]
    if resume:
        return go_on(resume, bool(config or changes or output or print_config or dry_run))
    return begin(resolve(config, changes), output, print_config, dry_run)


@detect.command("eval")
def evaluate(
    model: ModelOption,
    data: Annotated[str | None, typer.Option(help="Score on this data (default: the run's own).")] = None,
    split: Annotated[str, typer.Option(metavar="train|val|test", help="Which part of the data.")] = "val",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the network together.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images (default: as the run had).")
    ] = None,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Write the boxes here as COCO's results JSON, which other tools read.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help=f"Print the precision of each class, even of more than {FEW}.")
    ] = False,
) -> None:
    """Score a trained detector: COCO's mean average precision, over sizes of boxes and of each class."""
    from sasa.tasks.detection.evaluation import score_detector
    from sasa.tasks.detection.predictor import Detector

    one_of("--device", device, ("auto", "cpu", "cuda"))
    one_of("--on-bad-image", on_bad_image, ("error", "skip"))
    one_of("--split", split, ("train", "val", "test"))
    check_folder_of(json_file, results)
    if json_file and results and json_file.resolve() == results.resolve():
        raise UsageError(f"--json and --results are both {results}: name two files")
    scored = score_detector(Detector.load(model, device), model, data, split, batch_size, workers, on_bad_image)
    print_table(scored.summary())
    if per_class or len(scored.score.per_class) <= FEW:
        print_classes(scored)
    for name in scored.skipped:
        typer.echo(f"skipped: {name} cannot be read", err=True)
    if json_file:
        write_json(json_file, scored.to_dict())
    if results:
        write_json(results, scored.results)


def print_classes(scored: "DetectionScored") -> None:
    """A line a class; a dash where it has no box."""
    score = scored.to_dict()
    rows = [
        [shorten(name, 40), str(score["boxes"][name]), *map(as_share, score["per_class"][name])]
        for name in scored.score.per_class
    ]
    typer.echo()
    print_columns(["class", "boxes", "mAP", "mAP 50"], rows)


@detect.command("predict")
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or patterns (** looks into folders).")],
    model: ModelOption,
    score: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least score of a box.")] = 0.3,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the boxes here.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for a copy of each image with its boxes.")] = None,
) -> None:
    """Find boxes in images: a line for each image, and on request JSON and drawings."""
    from sasa.cli.drawing import BoxFolder
    from sasa.cli.inputs import find_images
    from sasa.data.images import read_image
    from sasa.models.boxes import Selection
    from sasa.tasks.detection.predictor import Detector

    one_of("--device", device, ("auto", "cpu", "cuda"))
    one_of("--on-bad-image", on_bad_image, ("error", "skip"))
    check_folder_of(json_file)
    detector, paths = Detector.load(model, device), find_images(images)
    if json_file and json_file.resolve() in {path.resolve() for path in paths}:
        raise UsageError(f"--json {json_file} is one of the images to look at: name another file")
    folder = BoxFolder(draw, paths, detector.labels) if draw else None
    written, skipped = [], []
    for path in paths:
        try:
            image = read_image(path)
        except DataError as error:
            if on_bad_image != "skip":
                raise
            skipped.append(str(error))
            continue
        found = next(detector.detect([(str(path), image)], Selection(score=score)))
        typer.echo(f"{path}  {count_by_class(found.labels)}")
        written.append(found.to_dict())
        if folder:
            folder.add(image, found)
    for sentence in skipped:
        typer.echo(f"skipped: {sentence}", err=True)
    if not written:
        raise DataError(f"none of the {len(paths)} images can be read")
    if json_file:
        write_json(json_file, written)
    if folder:
        typer.echo(folder.close())


def count_by_class(labels: list[str]) -> str:
    """ "2 dog, 1 cat" of the labels of an image's boxes."""
    counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
    return ", ".join(f"{count} {shorten(label, 24)}" for label, count in counts.items()) or "nothing"
