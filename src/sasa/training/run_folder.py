"""A run's folder: config, metrics, checkpoint, weights, summary. Every file is replaced atomically."""

import csv
import io
import json
import pickle
import platform
from pathlib import Path
from typing import Any

import torch

from sasa.errors import SasaError
from sasa.models.weights import atomic_write
from sasa.training.config import TrainConfig

CHECKPOINT_FORMAT = 1


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint_path(self) -> Path:
        """Training state, for resuming."""
        return self.path / "checkpoint.pt"

    def create(self, config: TrainConfig) -> None:
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
        atomic_write(self.path / name, text.encode())

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """metrics.csv, whole: one row an epoch. A resumed run so drops rows of steps it will do again."""
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text("metrics.csv", text.getvalue())

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Tensors and plain values only, so that it opens with weights_only=True."""
        buffer = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **state}, buffer)
        atomic_write(self.checkpoint_path, buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any]:
        """The last saved state. Nothing in the file is run."""
        if not self.checkpoint_path.is_file():
            raise SasaError(f"{self.path} holds no checkpoint to resume from")
        try:
            state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise SasaError(f"{self.checkpoint_path} is damaged, or no checkpoint: {first_line(error)}") from error
        if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
            raise SasaError(f"{self.checkpoint_path} is no checkpoint that this version reads")
        return state


def first_line(error: BaseException) -> str:
    """The first line of an error's text: torch's go on for a page."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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
