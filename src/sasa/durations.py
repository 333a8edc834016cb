"""Durations as people write them: 90s, 20m, 1h30m."""

import re

from sasa.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_budget(text: str) -> float:
    """Seconds of "90s", "20m", "1.5h" or "1h30m".

    Raises:
        UsageError: another form, or nothing.
    """
    part = r"(\d+(?:\.\d+)?)\s*([smh])\s*"
    seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(part, text))
    if not seconds or not re.fullmatch(f"({part})+", text.strip()):
        raise UsageError(f"--budget takes a time such as 90s, 20m, 1.5h or 1h30m, got {text!r}")
    return seconds


def spoken(seconds: float) -> str:
    """1.5 h, 20 m or 3 s."""
    unit = "h" if seconds >= 5400 else "m" if seconds >= 90 else "s"
    return f"{max(0.0, seconds) / UNITS[unit]:.3g} {unit}"


def roughly(seconds: float) -> str:
    """40 s or 3 minutes: as much as an estimate is worth."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
