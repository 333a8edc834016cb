"""`sasa data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasa.cli.app import app
from sasa.cli.output import check_directory_of, write_json
from sasa.errors import DataError

if TYPE_CHECKING:
    from sasa.data.inspect import Report

SHOWN_PROBLEMS = 20
SHOWN_IMAGES = 32  # of the training images in the grid


@app.command("data")
def data(
    path: Annotated[str, typer.Argument(metavar="DATA", help="A directory, file or name, as for sasa train.")],
    held_out: Annotated[float, typer.Option(help="Fraction held out where the data has no split of its own.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
    images: Annotated[int, typer.Option(min=1, help="Images of each split that are read for this report.")] = 1000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here, with all problems.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Draw training images with labels or boxes here (PNG).")] = None,
) -> None:
    """Report on a data set: splits, classes with counts, image sizes, problems, images in both splits."""
    from sasa.data.inspect import inspect
    from sasa.data.text import printable

    check_directory_of(json_file)
    report = inspect(path, held_out, seed, images)
    typer.echo(f"{printable(path)}: {report.task}")
    for sentence in (*report.findings, *report.sizes):
        typer.echo(sentence)
    typer.echo(f"problems: {len(report.problems) or 'none'}")
    for problem in report.problems[:SHOWN_PROBLEMS]:
        typer.echo(f"  {problem}")
    if len(report.problems) > SHOWN_PROBLEMS:
        typer.echo(f"  and {len(report.problems) - SHOWN_PROBLEMS} more: --json FILE has all")
    if json_file:
        write_json(json_file, report.to_dict())
    if draw:
        draw_grid(report, draw)
        typer.echo(f"drawn: {draw}")


def draw_grid(report: "Report", path: Path) -> None:
    """Draw training images, evenly spread, each with the name of its class or with its boxes.

    Raises:
        DataError: none can be read.
        SasaError: the file cannot be written.
    """
    from sasa.data.detection import DetectionSource
    from sasa.data.inspect import spread
    from sasa.draw.annotate import LabelledBoxes, draw_boxes
    from sasa.draw.charts import new_figure, save_figure

    source, shown = report.sources[0], []
    for index in spread(source, SHOWN_IMAGES):
        try:
            image: Any = source.read(index)
        except DataError:  # the report lists it among the problems
            continue
        title = Path(source.name(index)).name
        if isinstance(source, DetectionSource):
            targets = source.targets(index)
            names = [source.classes[label] for label in targets.labels.tolist()]
            image = draw_boxes(image, LabelledBoxes(targets.boxes, names), source.classes)
        else:
            title = source.classes[source.labels[index]]
        shown.append((image, title.replace("$", r"\$")))  # matplotlib reads $ as the start of a formula
    if not shown:
        raise DataError("none of the images to draw can be read")
    side = 3 if report.task == "detection" else 1.5
    columns = min(4 if report.task == "detection" else 8, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(side * columns, (side + 0.25) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, (image, title) in zip(grid, shown, strict=False):
        axes.imshow(image)
        axes.set_title(title, fontsize=9)
    save_figure(figure, path)
