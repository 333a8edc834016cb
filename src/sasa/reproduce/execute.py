"""Run the rows of a table one after the other; a stopped reproduction is continued by the same command."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sasa.durations import format_duration, parse_budget
from sasa.errors import DataError, DivergedError, UsageError
from sasa.files import expand_user, write_file
from sasa.reproduce.budget import epochs_that_fit, measure
from sasa.reproduce.plan import FREE, Plan, agree, load_plan
from sasa.reproduce.results import draw, results, to_markdown, write_csv
from sasa.reproduce.rows import TableRow
from sasa.reproduce.runs import DIVERGED, DONE, NEW, STARTED, Run, check_images, runs_of
from sasa.tasks.train import resume, train
from sasa.training.processes import started
from sasa.training.run_directory import RunDirectory
from sasa.training.settings import Config, flatten
from sasa.training.signals import StoppedError, StopRequest


@dataclass(frozen=True)
class Reproduction:
    """A plan with the seeds, data, directory and device that it runs with.

    Args:
        plan: the table.
        seeds: runs of each row.
        data: path or name of the data set.
        output: directory of plan.json and of the runs.
        device: "cpu", "cuda", ..., None for the recipe's.
        say: called with a sentence whenever something starts or ends.
    """

    plan: Plan
    seeds: int
    data: str
    output: Path
    device: str | None = None
    say: Callable[[str], None] = lambda sentence: None

    @property
    def runs(self) -> list[Run]:
        """All runs of the table, done or not."""
        return runs_of(self.plan, self.seeds, self.output)

    def config(self, run: Run) -> Config:
        """The configuration of one run."""
        return self.plan.config(run.row, run.seed, self.data, self.device)

    def recorded(self) -> "Reproduction":
        """Return a copy with the plan that `output` was started with, or self if nothing was run yet.

        Raises:
            UsageError, SasaError: a plan that cannot be run, or that contradicts the recorded one.
        """
        self.plan.check()
        recorded = load_plan(self.output) if (self.output / "runs").is_dir() else None
        return dataclasses.replace(self, plan=agree(self.plan, recorded, self.output)) if recorded else self

    def settle(self, rows: Sequence[TableRow]) -> "Reproduction":
        """Decide the epochs and write plan.json, unless `output` was already started.

        Args:
            rows: the rows that the budget is for.

        Raises:
            UsageError, SasaError: settings that cannot be run, or that contradict an earlier run in `output`.
            DataError: invalid data.
        """
        settled = self.recorded()
        if settled is not self:
            return settled
        if self.plan.budget:
            settled = dataclasses.replace(self, plan=self._fitted(self.plan.budget, rows))
        settled.check_done()  # before the plan is written: one that contradicts the runs would block the next command
        settled.plan.save(self.output)
        return settled

    def _fitted(self, budget: str, rows: Sequence[TableRow]) -> Plan:
        """The plan with as many epochs as fit into the budget, less the time that measuring takes."""
        began, seconds = time.perf_counter(), parse_budget(budget)
        configs, costs = [self.plan.config(row, 0, self.data, self.device) for row in rows], []
        with StopRequest() as signals:
            for row, config in zip(rows, configs, strict=True):
                self.say(f"measuring a few steps of {row.name}")
                costs.append(measure(config))
                signals.check("stopped while measuring; nothing was started")
        most = configs[0].recipe.epochs
        epochs = epochs_that_fit(costs, self.seeds, seconds - (time.perf_counter() - began), most)
        self.say(f"{epochs} of the recipe's {most} epochs for each of {self.seeds * len(costs)} runs fit into {budget}")
        return dataclasses.replace(self.plan, epochs=epochs)

    def run_all(self, rows: Sequence[TableRow]) -> None:
        """Start or continue the runs of some rows that are not done yet.

        Raises:
            StoppedError: after a signal of STOPPING, once a checkpoint is saved.
        """
        runs = [run for run in self.runs if run.row in rows]
        began, count = time.perf_counter(), 0
        with StopRequest() as signals:
            for number, run in enumerate(runs, 1):
                if run.state in (DONE, DIVERGED):
                    continue
                at = f"{run.row.name}, seed {run.seed} ({number} of {len(runs)})"
                self.say(f"{at}: {run.row.label}" + (", continued" if run.state == STARTED else ""))
                signals.check(f"stopped before {at}; the same command continues there")
                try:
                    run_one(run, self.config(run))
                except StoppedError as error:
                    sentence = f"stopped in {at}, saved; the same command continues there"
                    raise StoppedError(sentence, error.exit_status - 128) from error
                except DivergedError as error:
                    self.say(f"{at} diverged, and is reported as diverged: {error}")
                count += 1
        if count:
            self.say(f"{count} runs took {format_duration(time.perf_counter() - began)}")

    def check_done(self) -> None:
        """Check that the runs in `output` belong to this table.

        Raises:
            SasaError: a run with another setting (names both), or runs on different data.
        """
        for run in self.runs:
            if run.state == DONE:
                run.check(self.config(run))
        check_images(self.plan, self.runs)

    def report(self, command: str) -> str:
        """Write results.csv, table.md and, where the table has one, figure.png; return the text of table.md.

        Raises:
            SasaError: runs on different data; a file that cannot be written.
        """
        runs = self.runs
        check_images(self.plan, runs)
        text = to_markdown(self.plan, runs, command)
        write_csv(self.plan, runs, self.output / "results.csv")
        write_file(self.output / "table.md", text)
        draw(self.plan, results(self.plan, runs), self.output / "figure.png")
        return text

    def check_place(self) -> None:
        """Check, before any work, conditions that would fail later.

        Raises:
            UsageError: several processes: train() ends the process group after a run.
            DataError: no data.
        """
        if started() != (1, 1):
            raise UsageError(
                "reproduce runs in one process: print the config of each row with --print-config, train it with "
                "torchrun as its header says, and make the table with --collect"
            )
        if self.data != "digits" and "{" not in self.data and not expand_user(self.data).exists():
            raise DataError(f"there is no {self.data!r} here: say with --data where the images are")


def run_one(run: Run, config: Config) -> None:
    """Start a run, or continue it at its last checkpoint."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of the previous run
    if run.state == NEW:
        if (recorded := run.path / "config.yaml").exists():
            with RunDirectory(run.path).locked():  # an error if a process trains there now; else it ended too early
                recorded.unlink()
        train(config, run.path)
    else:
        run.check(config)
        resume(run.path, [(key, value) for key, value in flatten(config.to_dict()) if key in FREE])
