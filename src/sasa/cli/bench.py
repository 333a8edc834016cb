"""`sasa bench`."""

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import JsonOption, app
from sasa.errors import UsageError

if TYPE_CHECKING:
    from sasa.speed.pair import PairTimes

MOVED = ("--rows", "--profile", "--quick", "--markdown", "--picture")


def refuse_moved(given: bool) -> None:
    """Refuse the options of the acceptance table, which used to be part of this command, with its new place.

    Raises:
        UsageError: one of these options was given.
    """
    if given:
        names = f"{', '.join(MOVED[:-1])} and {MOVED[-1]}"
        raise UsageError(f"{names} are options of the acceptance table, which `make bench` in the repository measures")


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="A run's directory, or a network (see sasa models).")] = "sasa_resnet50",
    size: Annotated[int | None, typer.Option(min=32, help="Side of the random images (default: 224).")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Maximum number of turns of each network.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads (default: torch's).")] = None,
    budget: Annotated[str | None, typer.Option(help="Stop measuring after this time, e.g. 90s or 10m.")] = None,
    json_file: JsonOption = None,
    moved: Annotated[bool, typer.Option(*MOVED, hidden=True, callback=refuse_moved, is_eager=True)] = False,
) -> None:
    """Time a network beside its convolutional twin: training step and inference, in turns, on the CPU.

    A run is timed on its own data and recipe, and the result is written to speed.json there. A network named by
    `sasa models` is timed on 8 random images. Ctrl-C and SIGTERM keep what has been measured.
    """
    from sasa.durations import parse_budget
    from sasa.files import write_file
    from sasa.models import ResNet, RetinaNet, create_model
    from sasa.speed import Stop, torch_threads
    from sasa.speed.pair import pair_of_network, pair_of_run, time_pair
    from sasa.training.signals import StoppedError

    run = Path(model) if (Path(model) / "config.yaml").is_file() else None
    if run and size:
        raise UsageError(f"--size is for random images, but {model} is a run, which is timed on its own data")
    if threads and threads > (machine := os.cpu_count() or 1):
        raise UsageError(f"--threads ({threads}) must be at most {machine}, the number of this machine's cores")
    files = [path for path in (run and run / "speed.json", json_file) if path]
    with Stop(parse_budget(budget) if budget else None) as stop, torch_threads(threads):
        if run:
            pair = pair_of_run(run)
        else:
            network = create_model(model)
            assert isinstance(network, ResNet | RetinaNet)
            pair = pair_of_network(network, size=size or 224)

        def save(times: "PairTimes") -> None:
            for path in files:
                write_file(path, json.dumps(times.to_dict(), indent=2) + "\n")

        times = time_pair(pair, rounds, stop, lambda sentence: typer.echo(f"measuring: {sentence}", err=True), save)
    typer.echo(times.to_text())
    if stop.signal_number is not None:
        saved = f"; saved in {', '.join(map(str, files))}" if files and times.times else ""
        how = "interrupted" if stop.signal_number == signal.SIGINT else "stopped by SIGTERM"
        raise StoppedError(f"{how}: {len(times.times)} of 2 passes were measured{saved}", stop.signal_number)
