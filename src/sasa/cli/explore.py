"""`sasa explore`."""

from pathlib import Path
from typing import Annotated

import typer

from sasa.cli.app import DeviceOption, ModelOption, app
from sasa.cli.output import check_directory_of
from sasa.files import write_file


@app.command()
def explore(
    model: ModelOption,
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Files, directories, or patterns; without any, validation images of the run."),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Attention layer; may be repeated (default: all that fit).")
    ] = None,
    budget: Annotated[float, typer.Option(min=0.01, help="Largest size of the page in MB.")] = 8.0,
    score: Annotated[float, typer.Option(min=0.0, max=1.0, help="Lowest score of a detector's box.")] = 0.3,
    output: Annotated[Path, typer.Option(help="The HTML file to write.", callback=check_directory_of)] = Path(
        "attention.html"
    ),
    device: DeviceOption = "auto",
) -> None:
    """Write an HTML file that shows where a network looks: choose image, layer and head, and point at a pixel."""
    from sasa.cli.inputs import check_not_input, find_images
    from sasa.explore.data import explore as explore_image
    from sasa.explore.page import MEGABYTE, make_page
    from sasa.tasks.registry import load_trained

    paths = find_images(images or [])
    check_not_input("--output", output, paths)
    network = load_trained(model, device)
    explored = [explore_image(network, named, layer or [], score) for named in network.images_of(model, paths)]
    page = make_page(Path(model).name, network.KIND, explored, budget * MEGABYTE)
    write_file(output, page.text)
    if page.left_out:
        typer.echo(f"left out to stay within {budget:g} MB: {', '.join(page.left_out)}", err=True)
    size = f"{len(page.text.encode()) / MEGABYTE:.2f} MB"
    counts = f"{len(explored)} image{'s'[: len(explored) != 1]}, {page.layers} layer{'s'[: page.layers != 1]}"
    typer.echo(f"{counts}, {size}: open {output} in a browser")
