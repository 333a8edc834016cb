"""Reports of a run during training: a progress bar, steps.csv and metrics.csv, TensorBoard's events."""

import contextlib
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sasa.files import write_errors, write_file
from sasa.training.memory import peak_memory_gb
from sasa.training.run_directory import RunDirectory, to_csv
from sasa.training.settings import RunConfig

STEP_FIELDS = ["step", "learning_rate", "loss", "images_per_second"]
PREFIXES = {"train": "train_", "held out": "held_out_"}  # of the columns of metrics.csv, by their heading
PERCENT = {"top1": "top-1", "map": "mAP", "map50": "mAP 50", "map75": "mAP 75"}  # columns that are shares of 1
REDRAW_SECONDS, LINE_SECONDS = 0.25, 30.0  # between two bars on a terminal, between two lines elsewhere


class Reports:
    """All reports of a run, from its first process; other processes report nothing.

    Args:
        directory: of the run.
        progress: the bar; None for log files only.
        run: how often to log, and whether for TensorBoard.
        step: where the run starts or resumes.
        silent: whether this is not the first process.
    """

    def __init__(
        self, directory: RunDirectory, progress: "Progress | None", run: RunConfig, step: int, silent: bool = False
    ) -> None:
        self.directory = directory
        self.log = None if silent else StepLog(directory.path, step, run.log_steps, run.tensorboard)
        self.progress = None if silent else progress
        self.parts = [part for part in (self.progress, self.log) if part]

    def step(self, step: int, learning_rate: float, loss: float, images_per_second: float) -> None:
        """Report a step of the optimizer."""
        for part in self.parts:
            part.step(step, learning_rate, loss, images_per_second)

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """Report an epoch: the last of the rows of metrics.csv."""
        for part in self.parts:
            part.epoch(rows[-1])
        if self.log:
            self.directory.write_metrics(rows)

    def warn(self, sentence: str) -> None:
        """Print a warning about the run."""
        if self.progress:
            self.progress.warn(sentence)

    def flush(self) -> None:
        """Write the logs to the disk."""
        if self.log:
            self.log.flush()

    def close(self) -> None:
        """Remove the bar and close the logs."""
        for part in self.parts:
            part.close()


class Progress:
    """Prints each epoch's metrics; between them a bar on a terminal, or a line every half minute elsewhere.

    It prints nothing more once stdout fails, as a closed terminal or pipe does: the run goes on and saves.

    Args:
        total_steps: of the whole run.
        first_step: where it starts or resumes.
        console: by default that of stdout.
    """

    def __init__(self, total_steps: int, first_step: int = 0, console: Console | None = None) -> None:
        self.console = console or Console()
        self.bar = Bar(
            BarColumn(bar_width=None),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[memory]:.1f} GB"),
            console=self.console,
            auto_refresh=False,  # no background thread: worker processes are forked
            transient=True,
            expand=True,
        )
        self.drawn = self.console.is_interactive or self.console.is_jupyter  # else a pipe, a file or a dumb terminal
        self.task = self.bar.add_task("", total=total_steps, completed=first_step, loss=0.0, speed=0.0, memory=0.0)
        self._last = time.monotonic()

    def step(self, step: int, learning_rate: float, loss: float, images_per_second: float) -> None:
        """Redraw the bar, or print a line, if the last one is old enough."""
        self.bar.update(self.task, completed=step, loss=loss, speed=images_per_second)
        now = time.monotonic()
        if now - self._last < (REDRAW_SECONDS if self.drawn else LINE_SECONDS):
            return
        self._last = now
        self.bar.update(self.task, memory=peak_memory_gb())
        if self.drawn:
            with self._while_open():
                self.bar.start()
                self.console.show_cursor(True)  # a second Ctrl-C ends the process without a chance to show it again
                self.bar.refresh()
        else:
            texts = [column.render(self.bar.tasks[0]) for column in self.bar.columns[1:]]  # pyright: ignore
            texts[-2] = f"{texts[-2]} left"
            self._print("  ".join(map(str, texts)))

    def epoch(self, row: dict[str, Any]) -> None:
        """Print one line of metrics."""
        figures = "  ".join(f"{heading} {_figures(row, prefix)}" for heading, prefix in PREFIXES.items())
        self._print(f"epoch {row['epoch']:3d}  {figures}")

    def warn(self, sentence: str) -> None:
        """Print a warning between two epochs."""
        self._print(f"warning: {sentence}")

    def close(self) -> None:
        """Remove the bar."""
        if self.drawn:
            with self._while_open():
                self.bar.stop()

    def _print(self, text: str) -> None:
        with self._while_open():
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def _while_open(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SystemExit):  # rich exits on a closed pipe
            self.console.quiet, self.drawn = True, False


def _figures(row: dict[str, Any], prefix: str) -> str:
    """Return "loss 0.693 top-1 51.2%": the loss and the shares of the columns with this prefix, which fit in a line."""
    found = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    loss = [f"loss {found['loss']:.3f}"] if "loss" in found else []
    return " ".join([*loss, *(f"{PERCENT[n]} {value:.1%}" for n, value in found.items() if n in PERCENT)])


class StepLog:
    """Appends to steps.csv and TensorBoard's event files.

    A run that resumes before the last logged step removes the later rows, and TensorBoard hides the later events.

    Args:
        directory: of the run.
        step: where the run starts or resumes.
        every: steps between rows of steps.csv.
        tensorboard: whether to write its event files as well.
    """

    def __init__(self, directory: Path, step: int, every: int, tensorboard: bool) -> None:
        self.path, self.every = directory / "steps.csv", max(1, every)
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= step]
        write_file(self.path, to_csv(STEP_FIELDS, rows))
        with write_errors(self.path):
            self.file = self.path.open("a", newline="")
        self.events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def step(self, step: int, learning_rate: float, loss: float, images_per_second: float) -> None:
        """Log a step whose number is a multiple of `every`."""
        if step % self.every:
            return
        row = {
            "step": step,
            "learning_rate": float(f"{learning_rate:.6g}"),
            "loss": round(loss, 6),
            "images_per_second": round(images_per_second, 1),
        }
        with write_errors(self.path):
            csv.DictWriter(self.file, STEP_FIELDS, lineterminator="\n").writerow(row)
        self._add_events(step, {f"step/{name}": row[name] for name in STEP_FIELDS[1:]})

    def epoch(self, row: dict[str, Any]) -> None:
        """Log an epoch's row of metrics for TensorBoard."""
        self._add_events(row["step"], {f"epoch/{n}": v for n, v in row.items() if n not in ("epoch", "step")})

    def flush(self) -> None:
        """Write to the disk what was logged."""
        with write_errors(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            if self.events:
                self.events.flush()

    def close(self) -> None:
        """Close the files."""
        with write_errors(self.path):
            self.file.close()
            if self.events:
                self.events.close()

    def _add_events(self, step: int, values: dict[str, float]) -> None:
        if self.events:
            with write_errors(self.path.with_name("tensorboard")):  # errors of its thread are raised here
                for name, value in values.items():
                    self.events.add_scalar(name, value, step)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the complete rows of steps.csv; an incomplete last row, after a crash, is left out."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    return [row for row in rows if None not in row.values() and None not in row and row["step"].isdigit()]
