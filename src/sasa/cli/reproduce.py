"""`sasa reproduce`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import TrainingDeviceOption, app
from sasa.cli.output import print_columns
from sasa.errors import UsageError

if TYPE_CHECKING:
    from sasa.reproduce.execute import Reproduction
    from sasa.reproduce.rows import TableRow


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="1 to 7, or figure5.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|cifar10|digits|coco|bccd", help="Choose the recipe (default: cifar10, for table 2 coco)."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data, as for sasa train (default: the data set's name).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row; the rows are compared seed by seed.")] = 3,
    budget: Annotated[
        str | None,
        typer.Option(help="Time for all runs, or those of --row, e.g. 20m or 3h; reduces the epochs to fit."),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(metavar="full|small", help="The paper's widths, or networks for two CPU cores.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory of the runs (default: runs/reproduce/DATASET-SCALE-TABLE).")
    ] = None,
    validation: Annotated[
        bool,
        typer.Option(
            "--validation", help="Score on held-out training images (classification only): to choose settings."
        ),
    ] = False,
    row: Annotated[
        list[str] | None, typer.Option(help="Only rows of this name or pattern, e.g. 'r26_*'; may be repeated.")
    ] = None,
    device: TrainingDeviceOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for all rows, e.g. recipe.accumulate=2")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the rows and their state, and stop.")] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="Write the table of the runs that are done, and stop.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the config of the one row of --row, and stop.")
    ] = False,
) -> None:
    """Train the rows of a table of the paper and report our results beside the paper's; repeat to continue."""
    from sasa.reproduce.execute import Reproduction
    from sasa.reproduce.plan import Plan
    from sasa.reproduce.rows import DETECTION, table_name
    from sasa.reproduce.setups import choose_scale
    from sasa.training.settings import parse_setting

    if list_ + collect + print_config > 1:
        raise UsageError("--list, --collect and --print-config exclude each other: give one of them")
    if row and collect:
        raise UsageError("--collect makes the table of all rows: leave --row out")
    changes = [list(parse_setting(text)) for text in set_ or []]
    name = table_name(table)
    dataset = dataset or ("coco" if name == DETECTION else "cifar10")
    plan = Plan(name, dataset, choose_scale(dataset, scale), validation, None, budget, changes)
    directory = output or Path("runs") / "reproduce" / f"{dataset}-{plan.scale}-{plan.table}"
    reproduction, rows = Reproduction(plan, seeds, data or dataset, directory, device, say), plan.matching(row)
    if list_:
        return print_rows(reproduction.recorded(), rows)
    if print_config:
        return print_document(reproduction.recorded(), rows)
    return collect_table(reproduction) if collect else run_table(reproduction, rows)


def run_table(reproduction: "Reproduction", rows: Sequence["TableRow"]) -> None:
    """Train the runs that are not done, then write the table of those that are, also after Ctrl-C."""
    reproduction.check_place()
    reproduction = reproduction.settle(rows)
    reproduction.check_done()
    try:
        reproduction.run_all(rows)
    finally:
        text = reproduction.report(shlex.join(["sasa", *sys.argv[1:]]))
    print_report(reproduction, text)


def collect_table(reproduction: "Reproduction") -> None:
    """Write and print the table of the runs that are done.

    Raises:
        UsageError: none is.
    """
    from sasa.reproduce.runs import NEW, STARTED

    reproduction = reproduction.recorded()
    if all(run.state in (NEW, STARTED) for run in reproduction.runs):
        raise UsageError(f"--collect makes the table of the runs that are done: {reproduction.output} has none")
    reproduction.check_done()
    print_report(reproduction, reproduction.report(shlex.join(["sasa", *sys.argv[1:]])))


def print_report(reproduction: "Reproduction", text: str) -> None:
    """Print the table and the paths of its files."""
    directory = reproduction.output
    typer.echo(f"\n{text}\nwritten: {directory / 'table.md'}, {directory / 'results.csv'}")


def print_document(reproduction: "Reproduction", rows: Sequence["TableRow"]) -> None:
    """Print the config of one row, for `sasa train --config`."""
    from sasa.reproduce.document import document

    plan = reproduction.plan
    if len(rows) != 1:
        names = ", ".join(row.name for row in rows)
        raise UsageError(f"--print-config prints one config, and {len(rows)} rows match: name one with --row ({names})")
    if plan.budget and plan.epochs is None:
        raise UsageError("--budget is measured when the runs start: leave it out, or start the runs first")
    typer.echo(document(plan, rows[0], reproduction.data), nl=False)


def print_rows(reproduction: "Reproduction", rows: Sequence["TableRow"]) -> None:
    """Print name, network, the paper's number, and how many runs are done."""
    from sasa.reproduce.rows import title
    from sasa.reproduce.runs import DONE
    from sasa.reproduce.scores import measure_of

    plan, seeds = reproduction.plan, reproduction.seeds
    lines, measure = [], measure_of(plan.table)
    for row in rows:
        done = sum(run.state == DONE for run in reproduction.runs if run.row == row)
        model = " ".join(f"{name}={value}" for name, value in row.model.items() if name != "name")
        theirs = measure.paper(row.cells)
        paper = "-" if theirs is None else f"{theirs:.1f}"
        lines.append([row.name, row.label, f"{row.model['name']} {model}".strip(), paper, f"{done} of {seeds}"])
    typer.echo(f"{title(plan.table)}; {plan.dataset}, {plan.scale}\n")
    print_columns(["row", "in the paper", "network", f"{measure.name} %, paper", "runs done"], lines)


def say(sentence: str) -> None:
    """Write progress to stderr."""
    typer.echo(f"reproduce: {sentence}", err=True)
