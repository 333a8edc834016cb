"""`sasa bench`."""

from pathlib import Path
from typing import Annotated

import typer

from sasa.cli.app import app
from sasa.cli.output import write_json
from sasa.errors import UsageError


@app.command()
def bench(
    rows: Annotated[list[str] | None, typer.Option(help="Rows or groups, shell patterns (default: all).")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of each side.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch (default: as it is).")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Measure the networks by stage as well.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small networks, to try the command: no measurement.")] = False,
    model: Annotated[str | None, typer.Option(help="A run: time its network and the convolutional twin.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the ratios here (PNG).")] = None,
) -> None:
    """Time attention beside the convolution it replaces: the acceptance table, or the network of a run."""
    if model:
        if rows or profile or quick or json_file or picture:
            raise UsageError("--model times the network of a run; it goes with --rounds and --threads only")
        from sasa.training.twin import time_beside_twin

        typer.echo(time_beside_twin(Path(model), rounds, threads).to_text())
        return
    from sasa.analysis import speed
    from sasa.analysis.speed.report import heading as to_heading
    from sasa.analysis.speed.report import to_text

    for path in (json_file, picture):
        if path and not path.parent.is_dir():  # before minutes of measuring, not after
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    chosen = speed.choose([part for text in rows or () for part in text.split(",")])
    setting = speed.Setting.make(quick=quick, rounds=rounds, threads=threads)
    say = lambda sentence: typer.echo(f"measuring: {sentence}", err=True)  # noqa: E731
    report = speed.run(chosen, setting, profile=profile, quick=quick, say=say)
    typer.echo(to_text(report))
    if json_file:
        write_json(json_file, report.to_dict())
    if picture:
        from sasa.analysis.pictures import draw_ratios

        draw_ratios(report.to_dict()["rows"], picture, to_heading(report))
