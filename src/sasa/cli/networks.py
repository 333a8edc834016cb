"""`sasa flops`, `sasa paper` and `sasa models`: what is counted from networks, and their names."""

import json
from typing import Annotated

import typer

from sasa.cli.app import app
from sasa.cli.output import print_table


@app.command()
def flops(
    name: Annotated[str, typer.Argument(help="Name of a network, or folder of a saved one, or hf:OWNER/NAME.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the image, in pixels (default: 224; of a detector 640).")
    ] = None,
    option: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. width=0.5")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, FLOPS (the paper's two conventions) and GMACs of a network."""
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
    typer.echo(json.dumps(values, indent=2)) if as_json else print_table(values)


@app.command()
def paper(
    tables: Annotated[list[str] | None, typer.Argument(help="Numbers of tables (default: all).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The paper's tables beside what is counted from the built networks, and its claims checked."""
    from sasa.counting import paper_tables as analysis

    chosen, claims = analysis.tables(tables), analysis.claims(tables)
    values = {"tables": [table.to_dict() for table in chosen], "claims": [claim.to_dict() for claim in claims]}
    typer.echo(json.dumps(values, indent=2) if as_json else analysis.to_text(chosen, claims))


@app.command()
def models(pattern: Annotated[str | None, typer.Argument(help="Shell pattern.")] = None) -> None:
    """List the networks by name."""
    from sasa.models import list_models

    for name in list_models(pattern):
        typer.echo(name)
