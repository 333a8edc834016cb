"""A run's folder: config, metrics, checkpoints, weights, summary. Every file is replaced atomically."""

import csv
import io
import json
import pickle
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from sasa.errors import SasaError
from sasa.files import atomic_file, atomic_write
from sasa.training.settings import Config

CHECKPOINT_FORMAT = 2
OLD_RECIPE = {"ema_decay": 0.0, "batch_norm_momentum": 0.1}  # what runs had before these were settings


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint_path(self) -> Path:
        """Training state, for resuming."""
        return self.path / "checkpoint.pt"

    @property
    def previous_path(self) -> Path:
        """The training state before it, for the case that the last is damaged."""
        return self.path / "checkpoint.previous.pt"

    @property
    def best_path(self) -> Path:
        """The folder with the weights that scored best."""
        return self.path / "best"

    def create(self, config: Config) -> None:
        """Make the folder and write what decides the run; refuse one that already holds a run."""
        try:
            if (self.path / "config.yaml").exists():
                raise SasaError(f"{self.path} already holds a run: continue it with --resume, or name another --output")
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_text("config.yaml", config.to_yaml())
            self.write_text("environment.json", json.dumps(environment(), indent=2) + "\n")
        except OSError as error:
            raise SasaError(f"cannot write the run's folder {self.path}: {error.strerror or error}") from error

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file of the run."""
        try:
            atomic_write(self.path / name, text.encode())
        except OSError as error:
            raise SasaError(f"cannot write {self.path / name}: {error.strerror or error}") from error

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """metrics.csv, whole: one row an epoch. A resumed run so drops rows of steps it will do again."""
        if rows:
            self.write_text("metrics.csv", to_csv(list(rows[0]), rows))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Tensors and plain values only, so that it opens with weights_only=True. Keeps the one before.

        Whenever the process or the machine stops, one of the two files is whole.
        """
        try:
            if self.checkpoint_path.exists():
                self.checkpoint_path.replace(self.previous_path)
            with atomic_file(self.checkpoint_path) as file:
                torch.save({"format": CHECKPOINT_FORMAT, **state}, file)
        except OSError as error:
            raise SasaError(f"cannot write {self.checkpoint_path}: {error.strerror or error}") from error

    def load_checkpoint(self) -> tuple[dict[str, Any], str | None]:
        """The last saved state that is whole, and a sentence where it is not the last. Nothing in the files is run.

        Raises:
            SasaError: no checkpoint, or none that can be read.
        """
        paths = [path for path in (self.checkpoint_path, self.previous_path) if path.is_file()]
        if not paths:
            raise SasaError(f"{self.path} holds no checkpoint to resume from")
        try:
            state = read_checkpoint(paths[0])
        except SasaError as error:
            if len(paths) == 1:
                raise
            try:
                state = read_checkpoint(self.previous_path)
            except SasaError as other:
                raise SasaError(f"{error}; {other}") from error
            return state, f"{error}; going on from {self.previous_path.name}, step {state['step']}"
        if paths[0] == self.previous_path:
            return state, f"{self.checkpoint_path} is missing; going on from {paths[0].name}, step {state['step']}"
        return state, None

    def set_damaged_aside(self) -> None:
        """After falling back: the damaged checkpoint must not take the place of the good one when the next is saved."""
        if self.checkpoint_path.exists():
            self.checkpoint_path.replace(self.path / "checkpoint.damaged.pt")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The training state in a file, as this version has it. Nothing in the file is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # torch's own text advises to load it with weights_only=False, which would run what is in it.
        raise SasaError(f"{path} is damaged, or no checkpoint (nothing in it was run)") from error
    if not isinstance(state, dict) or state.get("format") not in (1, CHECKPOINT_FORMAT):
        raise SasaError(f"{path} is no checkpoint that this version reads")
    return from_format_1(state) if state["format"] == 1 else state


def from_format_1(state: dict[str, Any]) -> dict[str, Any]:
    """A state of the first format: without averages, and so it goes on."""
    config = {**state["config"], "recipe": {**state["config"]["recipe"], **OLD_RECIPE}}
    totals = state["totals"]
    sums = {"loss": totals["loss"], "top1": float(totals["right"])}
    return {
        **state,
        "format": CHECKPOINT_FORMAT,
        "config": config,
        "average": {},
        "precision": {},
        "totals": {"sums": sums, "count": totals["count"], "seconds": totals["seconds"]},
        "best": None,
        "skipped": [],
    }


def to_csv(fields: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """A table with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def environment() -> dict[str, str]:
    """What the run ran on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": device,
        "threads": str(torch.get_num_threads()),
    }


def next_run_path(name: str, parent: Path = Path("runs")) -> Path:
    """runs/NAME-1, or the first number that is free."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"
