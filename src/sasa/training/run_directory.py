"""A run's directory: config, metrics, checkpoints, weights, summary. Every file is replaced atomically."""

import contextlib
import csv
import errno
import fcntl
import io
import json
import pickle
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sasa.errors import SasaError
from sasa.files import atomic_file, remove_leftovers, write_errors, write_file
from sasa.training.settings import Config

CHECKPOINT_FORMAT = 2


class RunDirectory:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint_path = path / "checkpoint.pt"
        self.previous_path = path / "checkpoint.previous.pt"  # the one before, in case the last is damaged
        self.best_path = path / "best"  # directory of the weights that scored best

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints that exist, the last one first."""
        return [path for path in (self.checkpoint_path, self.previous_path) if path.is_file()]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory if it is missing, and keep other processes from training in it inside the block.

        The system releases the lock of a process that dies. It is one of POSIX (lockf), which worker processes do not
        inherit, and which most network file systems support; on others the block is entered without a lock.

        Raises:
            SasaError: another process holds the lock, or the directory cannot be made.
        """
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a")
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    sentence = f"another process is training in {self.path}: wait for its end, or name another --output"
                    raise SasaError(sentence) from None
            else:
                with write_errors(self.path):
                    remove_leftovers(self.path)
                    remove_leftovers(self.best_path)
            yield

    def create(self, config: Config) -> None:
        """Write the config of a new run into the directory; refuse one that already holds a run."""
        if (self.path / "config.yaml").exists():
            if not self.checkpoints:
                sentence = "holds a run that ended before its first checkpoint: remove it, or name another --output"
                raise SasaError(f"{self.path} {sentence}")
            raise SasaError(f"{self.path} already holds a run: continue it with --resume, or name another --output")
        self.write_text("config.yaml", config.to_yaml())
        self.write_text("environment.json", json.dumps(environment(), indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file of the run."""
        write_file(self.path / name, text)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace metrics.csv: one row an epoch. This drops the epochs that a resumed run will repeat."""
        if rows:  # those of a run that an earlier version began may have other columns
            columns = dict.fromkeys(column for row in reversed(rows) for column in row)
            self.write_text("metrics.csv", to_csv(list(columns), rows))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of tensors and plain values, which opens with weights_only=True, and keep the one before.

        Whenever the process or the machine stops, one of the two is complete. After an error (a full disk, say)
        checkpoint.pt is the last complete one.
        """
        kept = self.checkpoint_path.exists()
        with write_errors(self.checkpoint_path):
            if kept:  # before writing the new one, so that the disk holds two checkpoints, not three
                self.checkpoint_path.replace(self.previous_path)
            try:
                with atomic_file(self.checkpoint_path) as file:
                    torch.save({"format": CHECKPOINT_FORMAT, **state}, file)
            except Exception:
                if kept:
                    self.previous_path.replace(self.checkpoint_path)
                raise

    def load_checkpoint(self) -> tuple[dict[str, Any], str | None]:
        """Read the last complete checkpoint, with a sentence if the last one is damaged. No code in it is run.

        Raises:
            SasaError: no checkpoint, or none that can be read.
        """
        paths = self.checkpoints
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
            return state, f"{error}; resuming from {self.previous_path.name}, step {state['step']}"
        if paths[0] == self.previous_path:
            return state, f"{self.checkpoint_path} is missing; resuming from {paths[0].name}, step {state['step']}"
        return state, None

    def set_damaged_aside(self) -> None:
        """Rename a damaged last checkpoint, so that the next save does not replace the intact one with it."""
        if self.checkpoint_path.exists():
            self.checkpoint_path.replace(self.path / "checkpoint.damaged.pt")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the training state in a file. No code in it is run.

    Raises:
        SasaError: damaged, not a checkpoint, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # torch's own message advises weights_only=False, which would run code from the file.
        raise SasaError(f"{path} is damaged or not a checkpoint (no code in it was run)") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise SasaError(f"{path} has format {found!r}; this version reads checkpoints of format {CHECKPOINT_FORMAT}")
    return state


def to_csv(fields: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Return a CSV table with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def environment() -> dict[str, str]:
    """Return the versions and the machine of the run, for environment.json."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": device,
        "threads": str(torch.get_num_threads()),
    }


def next_run_path(name: str) -> Path:
    """Return runs/NAME-1, or the first number that is free."""
    number = 1
    while Path(f"runs/{name}-{number}").exists():
        number += 1
    return Path(f"runs/{name}-{number}")
