"""Rows of a benchmark: measured one by one, printed and saved as they come, until the time is over."""

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sasa.files import atomic_write
from sasa.speed.report import by_name, cell

Line = dict[str, Any]
GRACE = 15.0  # seconds that the row which is measured when the time is over may still take


@dataclass(frozen=True)
class Row:
    """What is measured together.

    Args:
        labels: what it is of: the first columns of its lines.
        measure: gives the rest of each line. What it needs it makes itself: a row that is skipped costs nothing.
    """

    labels: Line
    measure: Callable[[], list[Line]]


class StoppedError(BaseException):
    """A signal came while a row was measured. No Exception: nothing that a row does shall catch it."""


@dataclass
class Limit:
    """When to stop: after so many seconds, or when `close` is called.

    Args:
        seconds: from the start of the process.
        used: of them, when this was made.
        clock: what counts them.
    """

    seconds: float
    used: float = 0.0
    clock: Callable[[], float] = time.monotonic
    closed: str | None = None  # the reason
    measuring: bool = False
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock() - self.used

    @property
    def over(self) -> str:
        """The usual reason."""
        return f"{self.seconds:.0f} seconds are over"

    def reason(self) -> str | None:
        """Why no further row begins; None while there is time."""
        if self.closed is None and self.clock() - self.began > self.seconds:
            self.closed = self.over
        return self.closed

    def close(self, reason: str) -> None:
        """No further row begins, and the one that is measured ends."""
        self.closed = self.closed or reason
        if self.measuring:
            raise StoppedError(self.closed)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Around what a signal may end."""
        self.measuring = True
        try:
            yield
        finally:
            self.measuring = False


@contextlib.contextmanager
def signals_close(limit: Limit) -> Iterator[None]:
    """SIGTERM, Ctrl-C and the end of the time close the limit: what was measured stays, the rest is skipped."""
    reasons = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "interrupted", signal.SIGALRM: limit.over}
    before = {
        number: signal.signal(number, lambda *_, reason=reason: limit.close(reason))
        for number, reason in reasons.items()
    }
    signal.setitimer(signal.ITIMER_REAL, max(1.0, limit.seconds + GRACE - limit.used))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def age_of_process() -> float:
    """Seconds since this process began; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return age if 0 <= age < 600 else 0.0


def lines_of(row: Row, limit: Limit) -> list[Line]:
    """The row's lines; a single one with a note where it was skipped, stopped or failed."""
    reason = limit.reason()
    if reason is not None:
        return [{**row.labels, "note": f"skipped: {reason}"}]
    began = time.perf_counter()
    try:
        with limit.measured():
            lines = row.measure()
    except StoppedError as stopped:
        lines = [{"note": f"stopped: {stopped}"}]
    except Exception as error:  # memory, or a compiler: that is this row's result
        lines = [{"note": f"failed: {first_line(error)}"}]
    seconds = {"s": time.perf_counter() - began}
    return [{**row.labels, **line, **(seconds if n == 0 else {})} for n, line in enumerate(lines)]


def first_line(error: BaseException) -> str:
    """What an error says, in one line that is not too long, with its kind."""
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said[:150]}"


class Record:
    """What a run found, printed line by line and saved after every line.

    Args:
        path: of the JSON; None saves nothing.
        head: what comes before the parts.
    """

    def __init__(self, path: Path | None, head: Line) -> None:
        self.path, self.found = path, dict(head)
        self.save()

    def save(self) -> None:
        """Replace the file as one step."""
        if self.path is not None:
            atomic_write(self.path, (json.dumps(plain(self.found), indent=2) + "\n").encode())

    def put(self, name: str, value: Any) -> None:
        """Save a value beside the parts."""
        self.found[name] = value
        self.save()

    def part(self, name: str, rows: Iterable[Row], limit: Limit, after: Callable[[], object] = lambda: None) -> None:
        """Measure, print and save the rows of a part; `after` is called behind each."""
        lines: list[Line] = []
        self.found[name] = lines
        began = time.perf_counter()
        for row in rows:
            found = lines_of(row, limit)
            lines += found
            for line in found:
                print(in_words(line), flush=True)
            self.save()
            after()
        print(f"\n{by_name(lines)}\n\n{name}: {time.perf_counter() - began:.0f} seconds", flush=True)


def in_words(line: Line) -> str:
    """A line as it is printed before its table is complete."""
    return ", ".join(f"{name} {cell(value)}" for name, value in line.items() if value is not None)


def plain(value: Any) -> Any:
    """The value as JSON can hold it: infinities and NaN in words."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
