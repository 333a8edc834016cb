"""`sasa push`, `sasa flops`, `sasa paper` and `sasa models`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sasa.cli.app import AsJsonOption, app
from sasa.cli.output import print_table
from sasa.errors import ArgumentError


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
    from sasa.tasks.train import run_figures

    typer.echo(f"published: {upload(run, name, private, figures=run_figures(run))}")
    typer.echo(f"use it with --model hf:{name}; the card names no licence: add one on that page")


@app.command()
def flops(
    name: Annotated[str, typer.Argument(help="Network (see sasa models), directory of a saved one, or hf:OWNER/NAME.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the image in pixels (default: 224; 640 for detectors).")
    ] = None,
    option: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. width=0.5")] = None,
    as_json: AsJsonOption = False,
) -> None:
    """Count parameters, multiply-adds and FLOPs of a network.

    FLOPs are counted in two conventions that fit the paper's tables: "simple" counts multiply-adds twice, "calibrated"
    adds element-wise operations.
    """
    from sasa.counting.count import count
    from sasa.models import RetinaNet, create_model
    from sasa.training.settings import parse_setting

    model = create_model(name, **dict(parse_setting(text) for text in option or []))
    size = size or (640 if isinstance(model, RetinaNet) else 224)
    counted = count(model, size)
    values = {
        "network": name,
        "picture": f"{size} x {size}",
        "parameters_M": round(counted.parameters / 1e6, 2),
        "flops_simple_G": round(counted.flops_simple / 1e9, 2),
        "flops_calibrated_G": round(counted.flops_calibrated / 1e9, 2),
        "macs_G": round(counted.macs / 1e9, 2),
    }
    labels = ("network", "image", "parameters, M", "FLOPs, simple, G", "FLOPs, calibrated, G", "multiply-adds, G")
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        print_table(dict(zip(labels, values.values(), strict=True)))


@app.command()
def paper(
    tables: Annotated[list[str] | None, typer.Argument(help="Numbers of tables (default: all).")] = None,
    as_json: AsJsonOption = False,
) -> None:
    """Print the paper's tables and claims beside counts of the networks that sasa builds for them."""
    from sasa.counting import paper_tables

    chosen, claims = paper_tables.tables(tables), paper_tables.claims(tables)
    values = {"tables": [table.to_dict() for table in chosen], "claims": [claim.to_dict() for claim in claims]}
    typer.echo(json.dumps(values, indent=2) if as_json else paper_tables.to_text(chosen, claims))


@app.command()
def models(pattern: Annotated[str | None, typer.Argument(help="Shell pattern, e.g. 'sasa_*'.")] = None) -> None:
    """List the names of the networks."""
    from sasa.models import list_models

    names = list_models(pattern)
    if not names:
        raise ArgumentError(f"no network matches {pattern!r}: sasa models lists all")
    typer.echo("\n".join(names))
