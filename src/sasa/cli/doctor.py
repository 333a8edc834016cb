"""`sasa doctor`."""

from typing import Annotated

import typer

from sasa.cli.app import app


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Report versions, devices, threads, kernels, back-ends and extras, and why something is not available."""
    from sasa.cli.doctor_report import report

    typer.echo(report(as_json))
