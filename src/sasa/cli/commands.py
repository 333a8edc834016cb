"""All commands in the order of `sasa --help`: importing a file adds its commands to the application."""

# ruff: noqa: F401, I001
import typer

from sasa.cli.app import AsJsonOption, app
from sasa.cli import data, train, evaluate, predict, attend, explore, export, detect, bench, networks, reproduce


@app.command()
def doctor(as_json: AsJsonOption = False) -> None:
    """Report versions, devices, threads, kernels, back-ends and extras, and why something is not available."""
    from sasa.cli.doctor_report import report  # which works without typer

    typer.echo(report(as_json))
