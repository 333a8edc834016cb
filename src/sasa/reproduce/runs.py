"""The run folders of a reproduction: which are done, which are begun, and that they are what the plan says."""

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from sasa.errors import SasaError, UsageError
from sasa.reproduce.plan import FREE, Plan
from sasa.reproduce.rows import Row
from sasa.training.run_directory import RunDirectory
from sasa.training.settings import Config, flatten

NEW, STARTED, DONE, DIVERGED = "new", "started", "done", "diverged"


@dataclass(frozen=True)
class Run:
    """One row with one seed, and its folder."""

    row: Row
    seed: int
    path: Path

    @property
    def state(self) -> str:
        """NEW, STARTED (a checkpoint to go on from), DONE or DIVERGED."""
        folder = RunDirectory(self.path)
        if (self.path / "summary.json").is_file():
            return DONE
        if (self.path / "diverged.json").is_file():
            return DIVERGED
        return STARTED if folder.checkpoint_path.is_file() or folder.previous_path.is_file() else NEW

    def summary(self) -> dict[str, Any]:
        """summary.json of a run that is done."""
        try:
            return json.loads((self.path / "summary.json").read_text())
        except (OSError, ValueError) as error:
            raise SasaError(f"{self.path / 'summary.json'} is damaged: {error}") from error

    def environment(self) -> dict[str, str]:
        """Where and when it ran."""
        day = date.fromtimestamp((self.path / "summary.json").stat().st_mtime).isoformat()
        try:
            return {**json.loads((self.path / "environment.json").read_text()), "day": day}
        except (OSError, ValueError):
            return {"day": day}

    def check(self, wanted: Config) -> None:
        """Refuse to count a run that was configured in another way.

        Raises:
            SasaError: names the first setting that differs, with both values.
        """
        found, other = (dict(flatten(c.to_dict())) for c in (type(wanted).read(str(self.path / "config.yaml")), wanted))
        for key in sorted(found.keys() | other.keys()):
            if key not in FREE and found.get(key) != other.get(key):
                raise SasaError(
                    f"{self.path} was run with {key} {found.get(key)!r}, and the table wants {other.get(key)!r}: "
                    "name another --output, or move it away"
                )


def of_rows(plan: Plan, patterns: Sequence[str] | None) -> tuple[Row, ...]:
    """The rows whose names fit one of some patterns, such as "r26_*"; all without patterns.

    Raises:
        UsageError: a pattern that fits none; says which names there are.
    """
    for pattern in patterns or ():
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in plan.rows):
            names = ", ".join(row.name for row in plan.rows)
            raise UsageError(f"--row {pattern}: table {plan.table} has {names}")
    return tuple(
        row for row in plan.rows if patterns is None or any(fnmatch.fnmatchcase(row.name, p) for p in patterns)
    )


def runs_of(plan: Plan, seeds: int, output: Path) -> list[Run]:
    """All runs, seed by seed: when time runs out, the seeds that are done are done for every row."""
    return [Run(row, seed, output / "runs" / f"{row.name}-seed{seed}") for seed in range(seeds) for row in plan.rows]
