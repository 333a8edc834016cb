"""`sasa train`, and the function that adds every task's train command."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sasa.cli.app import BAD_IMAGE, TrainingDeviceOption, app
from sasa.cli.output import print_table
from sasa.errors import UsageError


def add_train(group: typer.Typer, task: str, summary: str, data: str, own: tuple[str, ...]) -> None:
    """Add the command `train` of a task to a group of commands.

    Args:
        group: `app` for `sasa train`.
        task: its name in the registry.
        summary: the command's help.
        data: help of --data.
        own: the options of this task only; those of other tasks are hidden, and refused as unknown settings.
    """

    @group.command("train", help=summary)
    def train(
        config: Annotated[str | None, typer.Option(help="YAML file, or the name of a recipe.")] = None,
        model: Annotated[str | None, typer.Option(help="Name of a network (see sasa models).")] = None,
        data: Annotated[str | None, typer.Option(help=data)] = None,
        epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
        batch_size: Annotated[int | None, typer.Option(min=1, help="Images in a batch.")] = None,
        backbone: Annotated[
            str | None,
            typer.Option(
                help="Run of sasa train (or hf:OWNER/NAME) whose weights the backbone starts from.",
                hidden="backbone" not in own,
            ),
        ] = None,
        device: TrainingDeviceOption = None,
        workers: Annotated[int | None, typer.Option(min=0, help="Processes that read images.")] = None,
        in_memory: Annotated[
            bool | None,
            typer.Option(
                "--in-memory/--no-in-memory",
                help="Decode all images once and keep them in memory.",
                hidden="in_memory" not in own,
            ),
        ] = None,
        on_bad_image: Annotated[
            str | None, typer.Option(help="An image that cannot be read: stop, or leave it out.", **BAD_IMAGE)
        ] = None,
        output: Annotated[
            Path | None, typer.Option(help="Directory of the run, which must be new (default: runs/MODEL-N).")
        ] = None,
        resume: Annotated[
            Path | None, typer.Option(help="Resume the run in this directory; with --data if its data moved.")
        ] = None,
        set_: Annotated[
            list[str] | None, typer.Option("--set", help="key=value, e.g. recipe.learning_rate=0.1; may be repeated.")
        ] = None,
        print_config: Annotated[bool, typer.Option("--print-config", help="Print all settings and stop.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Take two steps, write nothing.")] = False,
    ) -> None:
        from sasa.tasks import train as training
        from sasa.tasks.registry import TASKS
        from sasa.training.run_directory import next_run_path
        from sasa.training.settings import parse_setting

        options = {
            "model.name": model,
            "data.source": data,
            "recipe.epochs": epochs,
            "recipe.batch_size": batch_size,
            "recipe.backbone": backbone,
            "run.accelerator": device,
            "data.workers": workers,
            "data.in_memory": in_memory,
            "data.on_bad_image": on_bad_image,
        }
        changes = [(key, value) for key, value in options.items() if value is not None]
        changes += [parse_setting(text) for text in set_ or []]
        if resume:
            if config or output or print_config or dry_run or {key for key, _ in changes} - {"data.source"}:
                raise UsageError("--resume continues the run as it was configured: only --data may be given with it")
            return print_summary(training.resume(resume, changes), resume)
        settings = TASKS[task].resolve(config, changes)
        if print_config:
            return typer.echo(settings.to_yaml(), nl=False)
        if dry_run:
            return print_table(training.dry_run(settings))
        path = output or next_run_path(str(settings.model["name"]))
        return print_summary(training.train(settings, path), path)


def print_summary(summary: dict[str, Any] | None, path: Path) -> None:
    """Print the summary of a finished run and its directory; nothing in a process that did not write it."""
    if summary is None:
        return
    print_table({name: value for name, value in summary.items() if name != "warnings"})
    for sentence in summary["warnings"]:
        typer.echo(f"warning: {sentence}")
    drawn = sorted(file.name for file in path.glob("*.png"))
    typer.echo(f"\nrun: {path}  ({', '.join(['metrics.csv', 'model.safetensors', *drawn])})")


add_train(
    app,
    "classification",
    "Train an image classifier. Without options: on the built-in digits, in half a minute on two CPU cores.",
    "'digits', or a directory or file in any format of docs/data.md.",
    ("in_memory",),
)
