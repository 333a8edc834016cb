"""`sasa train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasa.cli.app import app, one_of
from sasa.cli.output import print_table
from sasa.errors import UsageError

if TYPE_CHECKING:
    from sasa.training.settings import Config

DEVICES = ("auto", "cpu", "cuda", "mps")


@app.command()
def train(
    config: Annotated[str | None, typer.Option(help="YAML file, or a recipe of the package.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a network.")] = None,
    data: Annotated[
        str | None, typer.Option(help="'digits', or a folder or file of any format in docs/training.md.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images of a step.")] = None,
    device: Annotated[str | None, typer.Option(metavar="|".join(DEVICES), help="Where it runs.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read images.")] = None,
    in_memory: Annotated[
        bool | None, typer.Option("--in-memory/--no-in-memory", help="Decode all images once, and keep them.")
    ] = None,
    on_bad_image: Annotated[
        str | None, typer.Option(metavar="error|skip", help="An image that cannot be read: stop, or leave it out.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/MODEL-N).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. recipe.learning_rate=0.1")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved config and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build all, take two steps, write nothing.")] = False,
) -> None:
    """Train a network. Without any option: the built-in digits, in half a minute on two CPU cores."""
    from sasa.tasks.classification.config import resolve
    from sasa.training.settings import parse_setting

    shortcuts = {
        "model.name": model,
        "data.source": data,
        "recipe.epochs": epochs,
        "recipe.batch_size": batch_size,
        "run.accelerator": one_of("--device", device, DEVICES),
        "data.workers": workers,
        "data.in_memory": in_memory,
        "data.on_bad_image": one_of("--on-bad-image", on_bad_image, ("error", "skip")),
    }
    changes = [(key, value) for key, value in shortcuts.items() if value is not None]
    changes += [parse_setting(text) for text in set_ or []]
    if resume:
        return go_on(resume, bool(config or changes or output or print_config or dry_run))
    return begin(resolve(config, changes), output, print_config, dry_run)


def go_on(path: Path, options_too: bool) -> None:
    """Resume a run, of whatever kind."""
    if options_too:
        raise UsageError("--resume goes on with the run as it was configured; leave the other options out")
    from sasa.tasks import train as training

    print_summary(training.resume(path), path)


def begin(config: "Config", output: Path | None, print_config: bool, dry_run: bool) -> None:
    """Print a resolved config, or try it, or run it."""
    if print_config:
        return typer.echo(config.to_yaml(), nl=False)
    from sasa.tasks import train as training
    from sasa.training.run_directory import next_run_path

    if dry_run:
        return print_table(training.dry_run(config))
    path = output or next_run_path(str(config.model["name"]))
    return print_summary(training.train(config, path), path)


def print_summary(summary: dict[str, Any] | None, path: Path) -> None:
    """What a finished run comes to, and where it is; nothing in a process that has not written it."""
    if summary is None:
        return
    print_table(summary)
    drawn = sorted(file.name for file in path.glob("*.png"))
    typer.echo(f"\nrun: {path}  ({', '.join(['metrics.csv', 'model.safetensors', *drawn])})")
