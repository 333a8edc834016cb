"""`sasa eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import BadImageOption, DeviceOption, ModelOption, app, one_of
from sasa.cli.output import as_share, check_folder_of, print_columns, print_table, shorten, write_json

if TYPE_CHECKING:
    from sasa.tasks.classification.evaluation import Scored

FEW = 20  # classes whose table is printed without being asked for


@app.command("eval")
def evaluate(
    model: ModelOption,
    data: Annotated[str | None, typer.Option(help="Held-out part of this data (default: the run's own).")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the network together.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images (default: as the run had).")
    ] = None,
    on_bad_image: BadImageOption = "error",
    device: DeviceOption = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures, of each class too, and the whole matrix here.")
    ] = None,
    confusion: Annotated[Path | None, typer.Option(help="Draw the confusion matrix here (PNG).")] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help=f"Print recall and precision of each class, even of more than {FEW}.")
    ] = False,
) -> None:
    """Score a trained network on held-out images: loss, top-1, top-5, recall and precision of each class."""
    from sasa.tasks.classification.evaluation import score_network
    from sasa.tasks.classification.predictor import Predictor

    one_of("--device", device, ("auto", "cpu", "cuda"))
    one_of("--on-bad-image", on_bad_image, ("error", "skip"))
    check_folder_of(json_file)
    predictor = Predictor.load(model, device)
    scored = score_network(predictor, model, data, batch_size, workers, on_bad_image)
    print_table(scored.summary())
    if per_class or len(scored.labels) <= FEW:
        print_classes(scored)
    if len(scored.labels) > FEW:
        print_confused(scored)
    for name in scored.skipped:
        typer.echo(f"skipped: {name} cannot be read", err=True)
    if json_file:
        write_json(json_file, scored.to_dict())
    if confusion:
        from sasa.draw.confusion import draw_confusion

        draw_confusion(scored.score.confusion, scored.labels, confusion)
        typer.echo(f"\ndrawn: {confusion}")


def print_classes(scored: "Scored") -> None:
    """A line a class; a dash where it had no images, or was never the answer."""
    rows = [[shorten(c.label, 40), str(c.images), as_share(c.recall), as_share(c.precision)] for c in scored.classes()]
    typer.echo()
    print_columns(["class", "images", "recall", "precision"], rows)


def print_confused(scored: "Scored") -> None:
    """The pairs of classes that were most often taken for each other."""
    pairs = scored.confused()
    if not pairs:
        return
    rows = [[shorten(p.truth, 40), shorten(p.answer, 40), str(p.images), as_share(p.share)] for p in pairs]
    typer.echo()
    print_columns(["true class", "taken for", "images", "of its images"], rows)
