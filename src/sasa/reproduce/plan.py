"""The plan of a reproduction: table, data set, scale, epochs; recorded in plan.json to continue it."""

import dataclasses
import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sasa.counting.count import Count, count
from sasa.errors import DataError, SasaError, UsageError
from sasa.files import expand_user, write_errors, write_file
from sasa.models import create_model
from sasa.reproduce.rows import DETECTION, TableRow, rows
from sasa.reproduce.setups import SETUPS, Setup
from sasa.training.settings import Config

PLAN = "plan.json"
# Settings that may differ between a run and its plan, because they do not change the result.
FREE = (
    "data.source data.workers data.in_memory data.on_bad_image recipe.accumulate run.accelerator run.compile "
    "run.channels_last run.gradient_checkpointing run.checkpoint_steps run.log_steps run.tensorboard"
).split()
OURS = ("data.source", "run.seed", "run.accelerator")  # set by options of the command


@dataclass(frozen=True)
class Plan:
    """A table to run.

    Args:
        table, dataset, scale: as `sasa.reproduce.rows.rows` takes them.
        validation: score on a part of the training images instead of the held-out images of the data set.
        epochs: of every run, None for the recipe's.
        budget: the text of --budget, recorded in plan.json.
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
    def setup(self) -> Setup:
        """The recipe and the networks of the data set."""
        return SETUPS[self.dataset, self.scale]

    @property
    def rows(self) -> tuple[TableRow, ...]:
        """The networks, in the paper's order."""
        return rows(self.table, self.dataset, self.scale)

    @property
    def deciding(self) -> dict[str, Any]:
        """The changes that affect the result."""
        return {key: value for key, value in self.changes if key not in FREE}

    def matching(self, patterns: Sequence[str] | None) -> tuple[TableRow, ...]:
        """Return the rows whose names match one of the patterns, such as "r26_*"; all rows without patterns.

        Raises:
            UsageError: a pattern without a match; the message lists the names.
        """
        for pattern in patterns or ():
            if not any(fnmatch.fnmatchcase(row.name, pattern) for row in self.rows):
                names = ", ".join(row.name for row in self.rows)
                raise UsageError(f"--row {pattern}: table {self.table} has {names}")
        wanted = ["*"] if patterns is None else patterns
        return tuple(row for row in self.rows if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in wanted))

    def config(self, row: TableRow, seed: int, data: str, device: str | None = None) -> Config:
        """The whole configuration of one run."""
        config = self.setup.config.read_recipe(self.setup.recipe)
        config.model = dict(row.model)
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
        """Check that no setting changes the comparison of the table.

        Raises:
            UsageError: names the setting; a table of detection on images without boxes, or the other way round.
            ArgumentError: options of a network that do not fit.
        """
        if self.validation and self.table == DETECTION:
            raise UsageError("--validation is for tables of classification: table 2 is scored on validation images")
        before = dataclasses.replace(self, changes=[]).network_options()
        varied = {f"model.{name}" for name in before[0] if any(o[name] != before[0][name] for o in before)}
        for key, _ in self.changes:
            if key in varied:
                raise UsageError(f"--set {key}: the rows of {self.table} differ in it, so it cannot be set for all")
            if key in OURS:
                raise UsageError(f"--set {key}: reproduce sets it itself, from --data, --seeds and --device")
        if self.changes:
            self.network_options()

    def network_options(self) -> list[dict[str, Any]]:
        """Return all options of each row's network, including those that its name implies.

        Raises:
            ArgumentError: options that do not fit.
        """
        return [_build(self.config(row, 0, "digits").model).config.to_dict() for row in self.rows]  # pyright: ignore

    def count(self, row: TableRow) -> Count:
        """Count parameters and FLOPS of a row's network for one image, with the settings of the plan."""
        config = self.config(row, 0, self.dataset)
        side, channels = config.data.image_size, getattr(config.data, "channels", 3)
        options = {"num_classes": self.setup.classes, **config.model}
        if channels != 3:
            options["in_chans"] = channels
        return count(_build(options), (channels, side, side))

    def save(self, directory: Path) -> None:
        """Write plan.json into the directory, which is made if it is missing."""
        with write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_file(directory / PLAN, json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def _build(model: dict[str, Any]) -> nn.Module:
    """Build the network of a model section on the meta device, without memory for its weights."""
    options = dict(model)
    with torch.device("meta"):
        return create_model(options.pop("name"), **options)


def load_plan(directory: Path) -> Plan | None:
    """Return the plan recorded in a directory, None without one.

    Raises:
        SasaError: a plan.json that cannot be read.
    """
    path = directory / PLAN
    if not path.is_file():
        return None
    try:
        return Plan(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SasaError(f"{path} is damaged: {error}") from error


def agree(asked: Plan, recorded: Plan, directory: Path) -> Plan:
    """Return the recorded plan if the requested one does not contradict it.

    Settings that do not affect the result are taken from the requested plan. The order of settings does not matter.

    Raises:
        SasaError: they differ; the message quotes both values.
    """
    for name in ("table", "dataset", "scale", "validation", "deciding"):
        now, before = getattr(asked, name), getattr(recorded, name)
        if now != before:
            word = "--set" if name == "deciding" else name
            raise SasaError(f"{directory} was started with {word} {before!r}, not {now!r}: choose another --output")
    if asked.budget and asked.budget != recorded.budget:
        raise SasaError(
            f"{directory} was started with {recorded.epochs or 'all'} epochs (--budget {recorded.budget}), not with "
            f"--budget {asked.budget}: choose another --output"
        )
    return dataclasses.replace(recorded, changes=asked.changes)


def training_part(data: str) -> str:
    """Return the path of a data set's training images only, so that the test images cannot be read.

    Raises:
        DataError: the names do not distinguish training from test images.
    """
    root = expand_user(data)
    if data == "digits" or not root.is_dir():
        return data  # one set, of which a part is held out; a missing file is reported when it is opened
    if (root / "train").is_dir():
        return str(root / "train")
    files = sorted(root.glob("train*.parquet")) + sorted((root / "data").glob("train*.parquet"))
    if len(files) == 1:
        return str(files[0])
    raise DataError(
        f"{data} has neither a directory train/ nor exactly one train*.parquet: move the training images into a "
        "directory of their own and give that as --data"
    )
