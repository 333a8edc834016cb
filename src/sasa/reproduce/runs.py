"""The run directories of a reproduction: their state, and whether they belong in one table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from sasa.errors import SasaError
from sasa.reproduce.plan import FREE, Plan
from sasa.reproduce.rows import TableRow
from sasa.training.run_directory import RunDirectory
from sasa.training.same_data import read_json
from sasa.training.settings import Config, flatten

NEW, STARTED, DONE, DIVERGED = "new", "started", "done", "diverged"

COMPARED = {  # keys of summary.json
    "training_pictures": "training images",
    "held_out_pictures": "held-out images",
}
DRAWN = "held_out_drawn"  # key of summary.json: whether the scored images were drawn from the training images


@dataclass(frozen=True)
class Run:
    """One row with one seed, and its directory."""

    row: TableRow
    seed: int
    path: Path

    @property
    def state(self) -> str:
        """NEW, STARTED (there is a checkpoint to continue from), DONE or DIVERGED."""
        if (self.path / "summary.json").is_file():
            return DONE
        if (self.path / "diverged.json").is_file():
            return DIVERGED
        return STARTED if RunDirectory(self.path).checkpoints else NEW

    def summary(self) -> dict[str, Any]:
        """The content of summary.json, of a run that is done."""
        try:
            return json.loads((self.path / "summary.json").read_text())
        except (OSError, ValueError) as error:
            raise SasaError(f"{self.path / 'summary.json'} is damaged: {error}") from error

    def machine(self) -> str:
        """The device, the version of torch (if known) and the day of a run that is done."""
        environment = read_json(self.path / "environment.json")
        known = [environment.get("device"), f"torch {environment['torch']}" if "torch" in environment else None]
        day = date.fromtimestamp((self.path / "summary.json").stat().st_mtime).isoformat()
        return ", ".join([text for text in (*known, day) if text])

    def check(self, wanted: Config) -> None:
        """Check that the run has the configuration that the table needs.

        Raises:
            SasaError: a setting differs; the message quotes both values.
        """
        found, other = (dict(flatten(c.to_dict())) for c in (type(wanted).read(str(self.path / "config.yaml")), wanted))
        for key in sorted(found.keys() | other.keys()):
            if key not in FREE and found.get(key) != other.get(key):
                raise SasaError(
                    f"{self.path} was run with {key} {found.get(key)!r}, but the table needs {other.get(key)!r}: "
                    "choose another --output, or move it away"
                )


def runs_of(plan: Plan, seeds: int, output: Path) -> list[Run]:
    """Return all runs, seed by seed, so that if time runs out the finished seeds cover every row."""
    return [Run(row, seed, output / "runs" / f"{row.name}-seed{seed}") for seed in range(seeds) for row in plan.rows]


def check_images(plan: Plan, runs: Sequence[Run]) -> None:
    """Check that all runs used the same images, from their summaries; the location of the data does not matter.

    Raises:
        SasaError: two runs differ (names both), or one was scored on the data's own held-out images under --validation.
    """
    done = [(run, run.summary()) for run in runs if run.state == DONE]
    for key, word in COMPARED.items():
        first: dict[int, Run] = {}
        for run, summary in done:
            if key in summary:
                first.setdefault(summary[key], run)
        if len(first) > 1:
            (one, a), (other, b) = list(first.items())[:2]
            raise SasaError(
                f"{a.path} has {one} {word}, {b.path} has {other}: runs of one table need the same data; choose "
                "another --output, or move one away"
            )
    drawn = scored_on_drawn(runs)
    if drawn == {True, False} or (plan.validation and drawn == {False}):
        own = next(run for run, summary in done if summary.get(DRAWN) is False)
        raise SasaError(
            f"{own.path} was scored on the data's own held-out images, not on a part of the training images as "
            f"{'--validation says' if plan.validation else 'the others were'}: they do not belong in one table"
        )


def scored_on_drawn(runs: Sequence[Run]) -> set[bool]:
    """Return the set of answers to: was a finished run scored on images drawn from the training images?"""
    summaries = [run.summary() for run in runs if run.state == DONE]
    return {summary[DRAWN] for summary in summaries if DRAWN in summary}
