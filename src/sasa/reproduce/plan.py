"""What a reproduction is to be: table, data, scale, epochs; kept in plan.json, so that going on later asks nothing."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sasa.errors import DataError, SasaError, UsageError
from sasa.files import atomic_write
from sasa.models import create_model
from sasa.reproduce.measures import DETECTION
from sasa.reproduce.recipes import recipe
from sasa.reproduce.rows import Row, rows, tables_of
from sasa.tasks.registry import config_of
from sasa.training.settings import Config

PLAN = "plan.json"
# What may differ between a run and its plan: where it ran, not what it computed.
FREE = (
    "data.source data.workers data.in_memory data.on_bad_image recipe.accumulate run.accelerator run.compile "
    "run.channels_last run.gradient_checkpointing run.checkpoint_steps run.log_steps run.tensorboard"
).split()
OURS = ("data.source", "run.seed", "run.accelerator")  # settings that options of the command decide


@dataclass(frozen=True)
class Plan:
    """A table to run.

    Args:
        table, dataset, scale: as `sasa.reproduce.rows.rows` takes them.
        validation: score on a part of the training images instead of the data's own held-out ones.
        epochs: of every run, None for the recipe's.
        budget: what --budget said, for the record.
        changes: (key, value) settings that differ from the recipe.
    """

    table: str
    dataset: str
    scale: str
    validation: bool = False
    epochs: int | None = None
    budget: str | None = None
    changes: list[list[Any]] = field(default_factory=list)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The networks, in the paper's order."""
        return rows(self.table, self.dataset, self.scale)

    @property
    def deciding(self) -> dict[str, Any]:
        """The changes that decide what is computed."""
        return {key: value for key, value in self.changes if key not in FREE}

    def config(self, row: Row, seed: int, data: str, device: str | None = None) -> Config:
        """The whole configuration of one run."""
        config = config_of({**recipe(self.dataset, self.scale), "model": row.model})
        for key, value in self.changes:
            config.set(key, value)
        if self.epochs is not None:
            config.recipe.warmup_epochs *= self.epochs / config.recipe.epochs
            config.recipe.epochs = self.epochs
        config.data.source = training_part(data) if self.validation else data
        config.run.seed = seed
        config.run.accelerator = device or config.run.accelerator
        return config

    def check(self) -> None:
        """Refuse settings that would change what the table compares.

        Raises:
            UsageError: names the setting; a table of detection on images without boxes, or the other way round.
            ArgumentError: options of a network that do not fit.
        """
        if self.table not in tables_of(self.dataset):
            of = "boxes" if self.table == DETECTION else "classes"
            raise UsageError(f"table {self.table} is about images with {of}, and {self.dataset} has others")
        if self.validation and self.table == DETECTION:
            raise UsageError("--validation is for tables of classification: table 2 is scored on validation images")
        before = dataclasses.replace(self, changes=[]).options()
        varied = {f"model.{name}" for name in before[0] if any(o[name] != before[0][name] for o in before)}
        for key, _ in self.changes:
            if key in varied:
                raise UsageError(f"--set {key}: the rows of {self.table} differ in it, so it cannot be set for all")
            if key in OURS:
                raise UsageError(f"--set {key}: reproduce sets it itself, from --data, --seeds and --device")
        self.options()

    def options(self) -> list[dict[str, Any]]:
        """All options of each row's network, also those that its name implies.

        Raises:
            ArgumentError: options that do not fit.
        """
        made = []
        for row in self.rows:
            given = dict(self.config(row, 0, "digits").model)
            with torch.device("meta"):  # without weights: only to see that it can be built
                made.append(create_model(given.pop("name"), **given).config.to_dict())  # pyright: ignore
        return made

    def save(self, folder: Path) -> None:
        """Write plan.json."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / PLAN, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())
        except OSError as error:
            raise SasaError(f"cannot write {folder / PLAN}: {error.strerror or error}") from error


def load_plan(folder: Path) -> Plan | None:
    """The plan that a folder was begun with, None for a new folder.

    Raises:
        SasaError: a plan.json that cannot be read.
    """
    if not (folder / PLAN).is_file():
        return None
    try:
        return Plan(**json.loads((folder / PLAN).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SasaError(f"{folder / PLAN} is damaged: {error}") from error


def agree(asked: Plan, begun: Plan, folder: Path) -> Plan:
    """The plan to go on with: the one begun, where what is asked for now does not contradict it.

    Settings of where it runs are those asked for now, and their order does not matter.

    Raises:
        SasaError: it does; names what, with both values.
    """
    for name in ("table", "dataset", "scale", "validation", "deciding"):
        now, before = getattr(asked, name), getattr(begun, name)
        if now != before:
            word = "--set" if name == "deciding" else name
            raise SasaError(f"{folder} was begun with {word} {before!r}, not {now!r}: name another --output")
    if asked.budget and asked.budget != begun.budget:
        raise SasaError(
            f"{folder} was begun with {begun.epochs or 'all'} epochs (--budget {begun.budget}), not with --budget "
            f"{asked.budget}: name another --output"
        )
    return dataclasses.replace(begun, changes=asked.changes)


def training_part(data: str) -> str:
    """Where the training images of a data set lie by themselves, so that the others cannot be read.

    Raises:
        DataError: they cannot be told apart by their names.
    """
    root = Path(data).expanduser()
    if data == "digits" or not root.is_dir():
        return data  # all in one: a part of it is held out; what is missing is said when it is opened
    if (root / "train").is_dir():
        return str(root / "train")
    files = sorted(root.glob("train*.parquet")) + sorted((root / "data").glob("train*.parquet"))
    if len(files) == 1:
        return str(files[0])
    raise DataError(
        f"{data} holds no train/ and no single train*.parquet: move the training images into a folder of their own "
        "and give that as --data"
    )
