"""`sasa doctor`."""

from typing import Annotated

import typer

from sasa.cli.app import app


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What this installation is and can use: versions, devices, CPU kernels, back-ends, extras."""
    from sasa.cli.doctor_report import report

    typer.echo(report(as_json))
