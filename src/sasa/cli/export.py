"""`sasa export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import app, one_of
from sasa.cli.output import check_directory_of, print_table

if TYPE_CHECKING:
    from sasa.export import Exported

FORMATS = ("pt2", "aoti", "onnx", "safetensors")  # as in sasa.export, which needs torch


@app.command()
def export(
    model: Annotated[
        str,
        typer.Option(help="Directory of a run or of a saved network, hf:OWNER/NAME, or a name of sasa models."),
    ],
    format: Annotated[str, typer.Option("--format", help="Kind of file: docs/deploy.md.", **one_of(*FORMATS))],
    output: Annotated[
        Path, typer.Option(help="The file to write: .pt2, .onnx or .safetensors.", callback=check_directory_of)
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Images to compare on (default: validation images of the run; without a run, noise)."),
    ] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width open; the batch always is.")
    ] = False,
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Detectors: boxes after non-maximum suppression in place of raw maps.")
    ] = False,
) -> None:
    """Export a network to a file that runs elsewhere; it is loaded in a new process and compared before it is kept."""
    from sasa.cli.inputs import check_not_input, find_images
    from sasa.export import export as export_network
    from sasa.export.trained import open_subject

    paths = find_images(images or [])
    check_not_input("--output", output, paths)
    subject = open_subject(model, paths)
    done = export_network(subject.network, subject.images, format, output, dynamic_size=dynamic_size, boxes=boxes)
    report(done, format, subject.source)


def report(done: "Exported", format: str, source: str) -> None:
    """Print a file's input and outputs, and how it compares with the network."""
    from sasa.export import TOLERANCE

    taken, opset = done.description["input"], done.description.get("opset")
    values = {
        "file": f"{done.path}, {done.size / 1e6:.2f} MB, {format}" + (f" (opset {opset})" if opset else ""),
        "input": f"{taken['dtype']} ({', '.join(map(str, taken['shape']))})",
        "values": taken["values"],
        "outputs": ", ".join(done.description["outputs"]),
        "compared on": f"{source}, in a new process",
        "largest difference": f"{done.difference:.1e} of the largest output (allowed: {TOLERANCE:.0e})",
        "time per image": f"{1e3 * done.seconds:.2f} ms; eager {1e3 * done.eager_seconds:.2f} ms",
    }
    print_table(values)
