"""Loss, learning rate and speed of single steps: steps.csv, and the same for TensorBoard."""

import csv
import os
from pathlib import Path
from typing import Any

from sasa.files import atomic_write
from sasa.training.run_directory import to_csv

FIELDS: list[str] = ["step", "learning_rate", "loss", "images_per_second"]


class StepLog:
    """Appends to the logs of a run's folder.

    A run that goes on at an earlier step than it had logged cuts the later rows off, and tells TensorBoard to hide
    what it had after that step.

    Args:
        folder: of the run.
        step: where the run stands.
        every: steps between rows of steps.csv.
        tensorboard: whether to write its event files as well.
    """

    def __init__(self, folder: Path, step: int, every: int, tensorboard: bool) -> None:
        self.path, self.every = folder / "steps.csv", max(1, every)
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= step]
        atomic_write(self.path, to_csv(FIELDS, rows).encode())
        self.file = self.path.open("a", newline="")
        self.events = event_writer(folder / "tensorboard", step) if tensorboard else None

    def step(self, step: int, learning_rate: float, loss: float, images_per_second: float) -> None:
        """Log a step, if it is one of those to be logged."""
        if step % self.every:
            return
        row = {
            "step": step,
            "learning_rate": float(f"{learning_rate:.6g}"),
            "loss": round(loss, 6),
            "images_per_second": round(images_per_second, 1),
        }
        csv.DictWriter(self.file, FIELDS, lineterminator="\n").writerow(row)
        self._events(step, {f"step/{name}": row[name] for name in FIELDS[1:]})

    def epoch(self, row: dict[str, Any]) -> None:
        """Give TensorBoard an epoch's row of metrics."""
        self._events(row["step"], {f"epoch/{n}": v for n, v in row.items() if n not in ("epoch", "step")})

    def flush(self) -> None:
        """Bring to the disk what was logged."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if self.events:
            self.events.flush()

    def close(self) -> None:
        """End the logs."""
        self.file.close()
        if self.events:
            self.events.close()

    def _events(self, step: int, values: dict[str, float]) -> None:
        if self.events:
            for name, value in values.items():
                self.events.add_scalar(name, value, step)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of steps.csv; a last one that a crash cut short is left out."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    return [row for row in rows if None not in row.values() and None not in row and row["step"].isdigit()]


def event_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer, told that nothing after `step` counts."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
