"""`sasa reproduce`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sasa.cli.app import app, one_of
from sasa.cli.output import print_columns
from sasa.cli.train import DEVICES
from sasa.errors import UsageError

if TYPE_CHECKING:
    from sasa.reproduce.plan import Plan


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="1 to 7, or figure5.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|cifar10|digits|coco|bccd", help="Whose recipe (default: cifar10, for table 2 coco)."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Where its images are (default: the name of the set).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row; the rows are compared seed by seed.")] = 3,
    budget: Annotated[
        str | None, typer.Option(help="Time for all runs, or those of --row, such as 20m or 3h: fewer epochs.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(metavar="full|small", help="Widths of the paper, or networks for two CPU cores.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the runs (default: runs/reproduce/DATASET-SCALE-TABLE).")
    ] = None,
    validation: Annotated[
        bool,
        typer.Option("--validation", help="Hold out training images (classification): to choose something."),
    ] = False,
    row: Annotated[
        list[str] | None, typer.Option(help="Only rows of this name or pattern, e.g. 'r26_*'; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="|".join(DEVICES), help="Where it runs.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for all rows, e.g. recipe.accumulate=2")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the rows and their state; run nothing.")] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="Make the table of the runs that are done; run nothing.")
    ] = False,
) -> None:
    """Run the rows of a table of the paper and put our numbers beside the paper's. The same command goes on."""
    from sasa.reproduce import report, run
    from sasa.reproduce.measures import DETECTION
    from sasa.reproduce.plan import Plan, agree, load_plan
    from sasa.reproduce.recipes import choose_scale
    from sasa.reproduce.rows import table_name
    from sasa.reproduce.runs import of_rows, runs_of
    from sasa.training.settings import parse_setting

    changes = [list(parse_setting(text)) for text in set_ or []]
    name = table_name(table)
    dataset = dataset or ("coco" if name == DETECTION else "cifar10")
    plan = Plan(name, dataset, choose_scale(dataset, scale), validation, None, budget, changes)
    one_of("--device", device, DEVICES)
    folder = output or Path("runs") / "reproduce" / f"{dataset}-{plan.scale}-{plan.table}"
    if list_ and collect:
        raise UsageError("--list prints the rows, --collect makes their table: give one of them")
    if list_:
        if begun := load_plan(folder):
            agree(plan, begun, folder)
        print_rows(plan, seeds, folder)
        return
    if row and collect:
        raise UsageError("--collect makes the table of all rows: leave --row out")
    plan.check()
    source, chosen = data or dataset, of_rows(plan, row)
    if not collect:
        run.check_place(source)
    plan = run.settle(plan, seeds, source, folder, device, say, measuring=not collect, rows=chosen)
    runs = runs_of(plan, seeds, folder)
    run.check_done(plan, runs, source)
    try:
        if not collect:
            run.run_all(plan, [run for run in runs if run.row in chosen], source, device, say)
    finally:  # a table of what is done, also after Ctrl-C
        text = report.write_report(plan, runs, folder, shlex.join(["sasa", *sys.argv[1:]]))
    typer.echo(f"\n{text}\nwritten: {folder / 'table.md'}, {folder / 'results.csv'}")


def print_rows(plan: "Plan", seeds: int, folder: Path) -> None:
    """Name, network, the paper's number, and how many runs are done."""
    from sasa.reproduce.measures import measure_of
    from sasa.reproduce.rows import title
    from sasa.reproduce.runs import DONE, runs_of

    plan.check()
    runs = runs_of(plan, seeds, folder)
    rows, measure = [], measure_of(plan.table)
    for row in plan.rows:
        done = sum(run.state == DONE for run in runs if run.row == row)
        model = " ".join(f"{name}={value}" for name, value in row.model.items() if name != "name")
        theirs = measure.paper(row.cells)
        paper = "-" if theirs is None else f"{theirs:.1f}"
        rows.append([row.name, row.label, f"{row.model['name']} {model}".strip(), paper, f"{done} of {seeds}"])
    typer.echo(f"{title(plan.table)}; {plan.dataset}, {plan.scale}\n")
    print_columns(["row", "in the paper", "network", f"{measure.name} %, paper", "runs done"], rows)


def say(sentence: str) -> None:
    """A line on stderr: what is done now."""
    typer.echo(f"reproduce: {sentence}", err=True)
