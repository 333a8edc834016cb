"""`sasa bench`."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import app
from sasa.cli.output import replace_text
from sasa.errors import SasaError, UsageError

if TYPE_CHECKING:
    from sasa.speed import Report
    from sasa.speed.acceptance import Result
    from sasa.speed.rows import Row
    from sasa.speed.stop import Stop


@app.command()
def bench(
    rows: Annotated[list[str] | None, typer.Option(help="Rows or groups, shell patterns (default: all).")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of each side, at most.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch (default: as it is).")] = None,
    budget: Annotated[str | None, typer.Option(help="What does not fit into this time is left out, e.g. 10m.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Measure the networks by stage as well.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small networks, to try the command: no measurement.")] = False,
    model: Annotated[str | None, typer.Option(help="A run: time its network and the convolutional twin.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Keep the report here as well.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers here.")] = None,
    image: Annotated[Path | None, typer.Option("--picture", help="Draw the ratios here (PNG).")] = None,
) -> None:
    """Time attention beside the convolution it replaces: the acceptance table, or the network of a run.

    Rows are printed, and files replaced, whenever something was measured: what is there at Ctrl-C, at SIGTERM or at the
    end of the budget is a report.
    """
    from sasa.durations import parse_budget
    from sasa.speed.stop import Stop

    files = [path for path in (markdown, json_file, image) if path]
    if model and (rows or budget or profile or quick or files):
        raise UsageError("--model times the network of a run; it goes with --rounds and --threads only")
    for path in files:
        if not path.parent.is_dir():  # before minutes of measuring, not after
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    with Stop(parse_budget(budget) if budget else None) as stop:
        if model:
            return beside_twin(Path(model), rounds, threads, stop)
        from sasa import speed
        from sasa.speed.demo import DEMO_GROUPS

        chosen = speed.choose([part for text in rows or () for part in text.split(",")])
        setting = speed.Setting.make(quick=quick, rounds=rounds, threads=threads)
        keep = Outputs(chosen, markdown, json_file, image)
        groups = {**speed.GROUPS, **DEMO_GROUPS}
        report = speed.run(chosen, setting, groups, profile=profile, quick=quick, stop=stop, say=say, keep=keep)
    keep.end(report)
    measured = sum(result.value is not None for result in report.table)
    check_stop(stop, f"{measured} of {len(chosen)} rows were measured, and stand above", files)
    if report.failures:
        raise SasaError(f"could not measure {'; '.join(f'{name}: {why}' for name, why in report.failures.items())}")
    return None


def beside_twin(path: Path, rounds: int | None, threads: int | None, stop: "Stop") -> None:
    """Time the network of a run beside its twin."""
    from sasa.speed.twin import time_beside_twin

    times = time_beside_twin(path, rounds, threads, stop, say)
    typer.echo(times.to_text())
    check_stop(stop, f"{len(times.times)} of 2 passes were measured", [path / "speed.json"] if times.times else [])


def say(sentence: str) -> None:
    """Tell what is being measured, beside the report."""
    typer.echo(f"measuring: {sentence}", err=True)


def check_stop(stop: "Stop", measured: str, files: Sequence[Path]) -> None:
    """Leave with a sentence, if a signal came.

    Raises:
        StoppedError: one did.
    """
    from sasa.training.signals import StoppedError

    if stop.signal_number is None:
        return
    saved = f"; saved in {', '.join(map(str, files))}" if files else ""
    how = "interrupted" if stop.signal_number == signal.SIGINT else "stopped by SIGTERM"
    raise StoppedError(f"{how}: {measured}{saved}", stop.signal_number)


class Outputs:
    """Prints the rows as they come, and replaces the files with the report so far."""

    def __init__(
        self, rows: Sequence["Row"], markdown: Path | None, json_file: Path | None, image: Path | None
    ) -> None:
        from sasa.speed.report import GrowingTable

        self.table, self.begun = GrowingTable(rows), False
        self.markdown, self.json_file, self.image = markdown, json_file, image

    def __call__(self, report: "Report", results: Sequence["Result"]) -> None:
        """Print what is new, and save all."""
        from sasa.speed.report import heading, to_text

        if not self.begun:
            typer.echo(f"{heading(report)}\n\n{self.table.head()}")
            self.begun = True
        for result in results:
            typer.echo(self.table.line(result))
        if self.markdown:
            replace_text(self.markdown, to_text(report) + "\n")
        if self.json_file:
            replace_text(self.json_file, json.dumps(report.to_dict(), indent=2) + "\n")
        if self.image:
            from sasa.draw.charts import draw_ratios

            draw_ratios(report.to_dict()["rows"], self.image, heading(report))

    def end(self, report: "Report") -> None:
        """Print what stands below the table."""
        from sasa.speed.report import below_the_table

        typer.echo("\n" + "\n\n".join(below_the_table(report)))
