"""The command `sasa`: parse, call, print. What goes wrong is one sentence on stderr and an exit status.

Libraries are imported inside the commands: `sasa --help` must not wait for them.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from sasa.errors import SasaError, UsageError

app = typer.Typer(
    help="Stand-alone self-attention in vision models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str, typer.Option("--model", help="Folder of a run, or of a saved network.")]


@app.command()
def train(
    config: Annotated[str | None, typer.Option(help="YAML file, or a recipe of the package.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a network.")] = None,
    data: Annotated[str | None, typer.Option(help="'digits', a folder of class folders, or image parquet.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training pictures.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures of a step.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run [default: runs/MODEL-N].")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. recipe.learning_rate=0.1")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved config and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build all, take two steps, write nothing.")] = False,
) -> None:
    """Train a network. Without any option: the built-in digits, in about two minutes on two CPU cores."""
    from sasa.training.config import parse_setting, resolve

    shortcuts = {"model.name": model, "data.source": data, "recipe.epochs": epochs, "recipe.batch_size": batch_size}
    changes = [(key, value) for key, value in shortcuts.items() if value is not None]
    changes += [parse_setting(text) for text in set_ or []]
    if resume and (config or changes or output):
        raise UsageError("--resume goes on with the run as it was configured; leave the other options out")
    if resume:
        from sasa.training import train as training

        return print_summary(training.resume(resume), resume)
    resolved = resolve(config, changes)
    if print_config:
        return typer.echo(resolved.to_yaml(), nl=False)
    from sasa.training import train as training
    from sasa.training.run_folder import next_run_path

    if dry_run:
        return print_table(training.dry_run(resolved))
    path = output or next_run_path(str(resolved.model["name"]))
    return print_summary(training.train(resolved, path), path)


@app.command("eval")
def evaluate(
    model: ModelOption,
    data: Annotated[str | None, typer.Option(help="Held-out part of this data [default: the run's own].")] = None,
) -> None:
    """Score a trained network on held-out pictures: loss, top-1, top-5."""
    from sasa.training.predictor import Predictor
    from sasa.training.scoring import score_directory

    print_table(score_directory(Predictor.load(model), Path(model), data))


@app.command()
def predict(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders, or patterns.")],
    model: ModelOption,
    top: Annotated[int, typer.Option(min=1, help="Classes to list.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the predictions here.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Write a grid of pictures with predictions here (PNG).")] = None,
) -> None:
    """Say what is on pictures."""
    from sasa.training.predictor import Predictor, find_pictures

    predictor = Predictor.load(model)
    paths = find_pictures(pictures)
    predictions = predictor.predict(((str(path), predictor.read(path)) for path in paths), top)
    for prediction in predictions:
        best = "  ".join(f"{n} {s:.1%}" for n, s in zip(prediction.labels, prediction.shares, strict=True))
        typer.echo(f"{prediction.name}: {best}")
    if json_file:
        write_json(json_file, [vars(prediction) for prediction in predictions])
    if draw:
        from sasa.analysis.pictures import draw_predictions

        seen = [predictor.preprocessing.square(predictor.read(path)) for path in paths]
        draw_predictions(seen, [p.labels[0] for p in predictions], [p.shares[0] for p in predictions], None, draw)
        typer.echo(f"drawn: {draw}")


@app.command()
def attend(
    picture: Annotated[Path, typer.Argument(help="A picture file.")],
    model: ModelOption,
    layer: Annotated[str | None, typer.Option(help="Attention layer [default: last of the finest group].")] = None,
    pixel: Annotated[list[str] | None, typer.Option(help="ROW,COLUMN in the picture; may be repeated.")] = None,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("attention.png"),
) -> None:
    """Draw where the heads of a layer look from chosen pixels of a picture."""
    from sasa.training.predictor import Predictor, parse_pixel

    predictor = Predictor.load(model)
    pixels = [parse_pixel(text) for text in pixel or []]
    name = predictor.draw_attention(predictor.read(picture), output, layer, pixels)
    typer.echo(f"layer {name}, drawn: {output}")


@app.command()
def flops(
    name: Annotated[str, typer.Argument(help="Name of a network, or folder of a saved one.")],
    size: Annotated[int, typer.Option(min=1, help="Side of the picture, in pixels.")] = 224,
    option: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. width=0.5")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, FLOPS (the paper's two conventions) and GMACs of a network."""
    from sasa.analysis.count import count
    from sasa.models import create_model
    from sasa.training.config import parse_setting

    model = create_model(name, **dict(parse_setting(text) for text in option or []))
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
    tables: Annotated[list[str] | None, typer.Argument(help="Numbers of tables [default: all].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The paper's tables beside what is counted from the built networks, and its claims checked."""
    from sasa.analysis import paper as analysis

    chosen, claims = analysis.tables(tables), [] if tables else analysis.claims()
    values = {"tables": [table.to_dict() for table in chosen], "claims": [claim.to_dict() for claim in claims]}
    typer.echo(json.dumps(values, indent=2) if as_json else analysis.to_text(chosen, claims))


@app.command()
def bench(
    rows: Annotated[list[str] | None, typer.Option(help="Rows or groups, shell patterns [default: all].")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of each side.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch [default: as it is].")] = None,
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


@app.command()
def models(pattern: Annotated[str | None, typer.Argument(help="Shell pattern.")] = None) -> None:
    """List the networks by name."""
    from sasa.models import list_models

    for name in list_models(pattern):
        typer.echo(name)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What this installation is and can use: versions, devices, CPU kernels, back-ends, extras."""
    from sasa.analysis.doctor import examine, to_text

    found = examine()
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else to_text(found))


def print_summary(summary: dict[str, Any], path: Path) -> None:
    """What a finished run comes to, and where it is."""
    print_table(summary)
    typer.echo(f"\nrun: {path}  (metrics.csv, model.safetensors, curves.png, predictions.png, attention.png)")


def print_table(values: dict[str, Any]) -> None:
    """Name and value, a line each."""
    width = max(len(name) for name in values)
    for name, value in values.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}  {value}")


def write_json(path: Path, values: Any) -> None:
    """Write JSON, or say in a sentence why not."""
    try:
        path.write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise SasaError(f"cannot write {path}: {error.strerror or error}") from error


def main() -> None:
    """Entry point of the command line."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # torch's notes to its own users
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    try:
        app()
    except SasaError as error:
        sys.stderr.write(f"sasa: {error}\n")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.stderr.write("sasa: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
