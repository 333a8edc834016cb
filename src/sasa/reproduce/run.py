"""Run the rows of a table one after the other, so that it can be stopped anywhere and go on with the same command."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from sasa.durations import parse_budget, spoken
from sasa.errors import DataError, DivergedError, UsageError
from sasa.reproduce.budget import epochs_that_fit, measure
from sasa.reproduce.plan import FREE, Plan, agree, load_plan
from sasa.reproduce.rows import Row
from sasa.reproduce.runs import DIVERGED, DONE, NEW, STARTED, Run, runs_of
from sasa.reproduce.same_images import check_images
from sasa.reproduce.stops import Stops
from sasa.tasks.train import resume, train
from sasa.training.processes import started
from sasa.training.settings import Config, flatten
from sasa.training.signals import StoppedError

Say = Callable[[str], None]


def settle(
    asked: Plan,
    seeds: int,
    data: str,
    output: Path,
    device: str | None = None,
    say: Say = lambda sentence: None,
    measuring: bool = True,
    rows: Sequence[Row] | None = None,
) -> Plan:
    """The plan to run: the one that `output` was begun with, or the one asked for, with epochs that fit its budget.

    The budget is that of some `rows`, if they are named. Without `measuring` nothing is run and nothing written, so a
    budget that is new decides nothing.

    Raises:
        UsageError, SasaError: settings that cannot be, or that contradict what was begun.
        DataError: what is wrong with the data.
    """
    asked.check()
    # Where nothing was run yet, a plan that was a mistake binds nobody.
    if (output / "runs").is_dir() and (begun := load_plan(output)):
        return agree(asked, begun, output)
    plan = _fitted(asked, rows or asked.rows, seeds, data, device, say) if asked.budget and measuring else asked
    if measuring:
        check_done(plan, runs_of(plan, seeds, output), data)  # a plan that they contradict would only be in the way
        plan.save(output)
    return plan


def _fitted(plan: Plan, rows: Sequence[Row], seeds: int, data: str, device: str | None, say: Say) -> Plan:
    """The plan with as many epochs as its budget has room for, the measuring taken from it."""
    assert plan.budget
    began, seconds, costs = time.perf_counter(), parse_budget(plan.budget), []
    with Stops() as stops:
        for row in rows:
            say(f"measuring a few steps of {row.name}")
            costs.append(measure(plan.config(row, 0, data, device)))
            stops.check("stopped while measuring; nothing was begun")
    most = plan.config(rows[0], 0, data).recipe.epochs
    epochs = epochs_that_fit(costs, seeds, seconds - (time.perf_counter() - began), most)
    say(f"{epochs} of the recipe's {most} epochs for each of {seeds * len(costs)} runs fit into {plan.budget}")
    return dataclasses.replace(plan, epochs=epochs)


def run_all(
    plan: Plan, runs: Sequence[Run], data: str, device: str | None = None, say: Say = lambda sentence: None
) -> None:
    """Run what is not done yet, and go on with what was stopped.

    Raises:
        StoppedError: after SIGINT or SIGTERM, having saved.
    """
    began, count = time.perf_counter(), 0
    with Stops() as stops:
        for number, run in enumerate(runs, 1):
            if run.state in (DONE, DIVERGED):
                continue
            at = f"{run.row.name}, seed {run.seed} ({number} of {len(runs)})"
            say(f"{at}: {run.row.label}" + (", going on" if run.state == STARTED else ""))
            stops.check(f"stopped before {at}; the same command goes on there")
            try:
                run_one(run, plan.config(run.row, run.seed, data, device))
            except StoppedError as error:
                sentence = f"stopped in {at}, saved; the same command goes on there"
                raise StoppedError(sentence, error.exit_status - 128) from error
            except DivergedError as error:
                say(f"{at} diverged, and counts as that: {error}")
            count += 1
    if count:
        say(f"{count} runs took {spoken(time.perf_counter() - began)}")


def check_done(plan: Plan, runs: Sequence[Run], data: str) -> None:
    """Refuse runs that lie where the table's are, and are others.

    Raises:
        SasaError: names the run and the setting, or runs on different data.
    """
    for run in runs:
        if run.state == DONE:
            run.check(plan.config(run.row, run.seed, data))
    check_images(plan, runs)


def run_one(run: Run, config: Config) -> None:
    """Start a run, or go on with it at its last checkpoint."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of the run before
    if run.state == NEW:
        # Of a run that ended before its first checkpoint nothing is left to go on with.
        (run.path / "config.yaml").unlink(missing_ok=True)
        train(config, run.path)
    else:
        run.check(config)
        resume(run.path, [(key, value) for key, value in flatten(config.to_dict()) if key in FREE])


def check_place(data: str) -> None:
    """Refuse what would end in the middle of things.

    Raises:
        UsageError: several processes, which train() ends after a run.
        DataError: no data.
    """
    if started() != (1, 1):
        raise UsageError(
            "reproduce runs in one process: start the configs of configs/ with torchrun, as their headers say, and "
            "make the table of them with --collect"
        )
    if data != "digits" and "{" not in data and not Path(data).expanduser().exists():
        raise DataError(f"there is no {data!r} here: say with --data where the images are")
