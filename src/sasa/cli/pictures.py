"""`sasa predict` and `sasa attend`."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasa.cli.app import BadImageOption, DeviceOption, ModelOption, app, one_of
from sasa.cli.output import check_folder_of, print_columns, shorten, write_json
from sasa.errors import DataError, UsageError

if TYPE_CHECKING:
    from sasa.tasks.classification.predictor import Predictor

LONGEST_LABEL = 24  # letters in the table; JSON has the whole names


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or patterns (** looks into folders).")],
    model: ModelOption,
    top: Annotated[int, typer.Option(min=1, help="Classes to list.")] = 5,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the predictions here.")] = None,
    draw: Annotated[
        Path | None,
        typer.Option(help="A name that ends in .png gets a grid of the first 64; a folder one image for each."),
    ] = None,
) -> None:
    """Say what is on images: the best classes of each, with their shares of the softmax."""
    one_of("--device", device, ("auto", "cpu", "cuda"))
    one_of("--on-bad-image", on_bad_image, ("error", "skip"))
    check_folder_of(json_file)
    from sasa.cli.inputs import find_images
    from sasa.tasks.classification.predictor import Predictor

    predictor = Predictor.load(model, device)
    paths, skipped = find_images(images), []
    drawing = open_drawing(draw, paths, predictor)
    readable = read_all(predictor, paths, skipped if on_bad_image == "skip" else None)
    keep = {"keep": drawing.keep} if drawing else {}
    table, written = Table(paths, predictor.labels, top), []
    for prediction, kept in predictor.stream(readable, top, **keep):
        table.add(prediction)
        if json_file:
            written.append(asdict(prediction))
        if drawing:
            drawing.add(prediction, kept)
    for sentence in skipped:
        typer.echo(f"skipped: {sentence}", err=True)
    if len(skipped) == len(paths):
        raise DataError(f"none of the {len(paths)} images can be read")
    if json_file:
        write_json(json_file, written)
    if drawing:
        typer.echo(drawing.close())


def open_drawing(path: Path | None, inputs: list[Path], predictor: "Predictor") -> Any:
    """A page, a folder or nothing, by the name of the path."""
    if path is None:
        return None
    from sasa.cli.drawing import Folder, Grid

    return (Grid if path.suffix.lower() == ".png" and not path.is_dir() else Folder)(path, inputs, predictor)


def read_all(predictor: "Predictor", paths: list[Path], skipped: list[str] | None) -> Iterator[tuple[str, Any]]:
    """(name, image) one by one; where `skipped` is a list, the sentence of an unreadable one goes there."""
    for path in paths:
        try:
            yield str(path), predictor.read(path)
        except DataError as error:
            if skipped is None:
                raise
            skipped.append(str(error))


class Table:
    """A line for each image, printed as it comes: names and labels are known before, so the columns stand."""

    def __init__(self, paths: list[Path], labels: list[str], top: int) -> None:
        self.name = min(60, max(len("picture"), *(len(str(path)) for path in paths)))
        self.label = min(LONGEST_LABEL, max(map(len, labels)))
        heading = "  ".join(f"top {n + 1}".ljust(self.label + 7) for n in range(min(top, len(labels))))
        typer.echo(f"{'picture':<{self.name}}  {heading.rstrip()}")

    def add(self, prediction: Any) -> None:
        """Print one line."""
        best = zip(prediction.labels, prediction.shares, strict=True)
        cells = "  ".join(f"{shorten(label, LONGEST_LABEL):<{self.label}} {share:>6.1%}" for label, share in best)
        typer.echo(f"{prediction.name:<{self.name}}  {cells}")


@app.command()
def attend(
    model: ModelOption,
    image: Annotated[Path | None, typer.Argument(help="An image file; --list needs none.")] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Attention layer; may be repeated; 'all' (default: last of the finest group)."),
    ] = None,
    head: Annotated[
        list[int] | None, typer.Option(help="Head, from 1; may be repeated (default: all; of many layers the mean).")
    ] = None,
    pixel: Annotated[
        list[str] | None, typer.Option(help="ROW,COLUMN in the image; may be repeated (default: liveliest places).")
    ] = None,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("attention.png"),
    list_layers: Annotated[bool, typer.Option("--list", help="Print the layers of the network and stop.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Draw where a layer's heads look from chosen pixels of an image, or where many layers look from one pixel."""
    from sasa.cli.inputs import parse_pixel
    from sasa.tasks.classification.predictor import Predictor

    one_of("--device", device, ("auto", "cpu", "cuda"))
    pixels, names = [parse_pixel(text) for text in pixel or []], layer or []
    many = len(names) > 1 or "all" in names
    if image is None and not list_layers:
        raise UsageError("name an image to look at, or --list the layers")
    if many and len(pixels) > 1:
        raise UsageError(f"many layers are drawn for one pixel, got {len(pixels)}: name one --layer, or one --pixel")
    predictor = Predictor.load(model, device)
    if image is None or list_layers:
        return print_layers(predictor)
    if image.resolve() == output.resolve():
        raise UsageError(f"--output {output} is the image to look at: name another file")
    seen = predictor.read(image)
    if many:
        chosen = [] if "all" in names else names
        drawn = predictor.draw_layers(seen, output, chosen, pixels[0] if pixels else None, head or [])
        return typer.echo(f"{len(drawn)} layers, drawn: {output}")
    name = predictor.draw_attention(seen, output, names[0] if names else None, pixels, head or [])
    return typer.echo(f"layer {name}, drawn: {output}")


def print_layers(predictor: "Predictor") -> None:
    """A line a layer: the size of its map, its window, its heads."""
    rows = [
        [one.name, f"{one.height} x {one.width}", f"{one.kernel_size} x {one.kernel_size}", str(one.heads)]
        for one in predictor.layers()
    ]
    if not rows:
        return typer.echo("the network has no local attention layer")
    return print_columns(["layer", "map", "window", "heads"], rows)
