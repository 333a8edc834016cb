"""Results in a JSON file that is replaced after every row, so that an interrupted run can be resumed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import plain
from benchmarks.gpu.rows import FAILED, Row, Values
from sasa.files import atomic_write


class OtherMachineError(Exception):
    """The file holds results of another GPU or another setting."""


class Record:
    """What was found, by the names of the rows.

    Args:
        path: of the JSON file, which may exist; None saves nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        exists = path is not None and path.is_file()
        self.content: dict[str, Any] = json.loads(path.read_text()) if exists else {}  # pyright: ignore[reportOptionalMemberAccess]
        self.rows: dict[str, Values] = self.content.setdefault("rows", {})

    def set_machine(self, machine: Values) -> None:
        """Record the machine and the setting.

        Raises:
            OtherMachineError: the file has results of others: times of different GPUs must not be mixed.
        """
        before = self.content.setdefault("machine", machine)
        for name, value in machine.items():
            if before.get(name) != value:
                raise OtherMachineError(f"{self.path} holds results with {name} {before.get(name)}, this is {value}")

    def missing(self, rows: Sequence[Row]) -> list[Row]:
        """Rows without a result: those that never ran, then those that failed."""
        never = [row for row in rows if row.name not in self.rows]
        return never + [row for row in rows if FAILED in self.rows.get(row.name, {})]

    def put(self, name: str, values: Values) -> None:
        """Save the result of a row."""
        self.rows[name] = plain(values)
        if self.path is not None:
            atomic_write(self.path, (json.dumps(self.content, indent=1) + "\n").encode())
