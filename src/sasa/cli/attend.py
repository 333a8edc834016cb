"""`sasa attend`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import DeviceOption, ModelOption, app
from sasa.cli.output import check_figure, print_columns
from sasa.errors import ArgumentError, UsageError

if TYPE_CHECKING:
    from sasa.tasks.classification.predictor import Predictor


@app.command()
def attend(
    model: ModelOption,
    image: Annotated[Path | None, typer.Argument(help="An image file; --list needs none.")] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Attention layer; may be repeated; 'all' (default: last of the finest group)."),
    ] = None,
    head: Annotated[
        list[int] | None,
        typer.Option(help="Head, from 1; may be repeated (default: all; for several layers their mean)."),
    ] = None,
    pixel: Annotated[
        list[str] | None, typer.Option(help="ROW,COLUMN in the image; may be repeated (default: the busiest pixels).")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The figure to write: PNG, or another format by its name.", callback=check_figure)
    ] = Path("attention.png"),
    list_layers: Annotated[bool, typer.Option("--list", help="Print the network's attention layers and stop.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Draw what the heads of a layer attend to from chosen pixels of an image, or many layers from one pixel."""
    from sasa.cli.inputs import check_not_input
    from sasa.tasks.classification.predictor import Predictor

    pixels, names = [parse_pixel(text) for text in pixel or []], layer or []
    many = len(names) > 1 or "all" in names
    if image is None and not list_layers:
        raise UsageError("name an image to look at, or --list the layers")
    if many and len(pixels) > 1:
        raise UsageError(f"many layers are drawn for one pixel, got {len(pixels)}: name one --layer, or one --pixel")
    predictor = Predictor.load(model, device)
    if image is None or list_layers:
        return print_layers(predictor)
    check_not_input("--output", output, [image])
    opened = predictor.read(image)
    if many:
        chosen = [] if "all" in names else names
        drawn = predictor.draw_layers(opened, output, chosen, pixels[0] if pixels else None, head or [])
        return typer.echo(f"{len(drawn)} layers, drawn: {output}")
    name = predictor.draw_attention(opened, output, names[0] if names else None, pixels, head or [])
    return typer.echo(f"layer {name}, drawn: {output}")


def print_layers(predictor: "Predictor") -> None:
    """Print a line for each attention layer: the size of its feature map, its window, its heads."""
    rows = [
        [one.name, f"{one.height} x {one.width}", f"{one.kernel_size} x {one.kernel_size}", str(one.heads)]
        for one in predictor.layers()
    ]
    if not rows:
        return typer.echo("the network has no local attention layer")
    return print_columns(["layer", "map", "window", "heads"], rows)


def parse_pixel(text: str) -> tuple[int, int]:
    """Return (12, 30) for "12,30": row and column.

    Raises:
        ArgumentError: not two whole numbers.
    """
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"--pixel takes ROW,COLUMN in pixels of the image, got {text!r}") from None
    return row, column
