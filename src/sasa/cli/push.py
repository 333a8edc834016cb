"""`sasa push`."""

from pathlib import Path
from typing import Annotated

import typer

from sasa.cli.app import app


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Directory of a run, or of a saved network.")],
    name: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub; created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Publish a trained network on the Hugging Face Hub: weights, config and a model card, nothing else of the run."""
    from sasa.models.publish import upload
    from sasa.tasks.figures import run_figures

    typer.echo(f"published: {upload(run, name, private, figures=run_figures(run))}")
    typer.echo(f"use it with --model hf:{name}; the card names no licence: add one on that page")
