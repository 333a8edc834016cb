"""Durations as users write and read them: 90s, 20m, 1h30m."""

import re

from sasa.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_budget(text: str) -> float:
    """Convert "90s", "20m", "1.5h" or "1h30m" to seconds.

    Raises:
        UsageError: the text has another form, or means zero seconds.
    """
    part = r"(\d+(?:\.\d+)?)\s*([smh])\s*"
    seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(part, text))
    if not seconds or not re.fullmatch(f"({part})+", text.strip()):
        raise UsageError(f"--budget takes a time such as 90s, 20m, 1.5h or 1h30m, got {text!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """Format seconds as "1.5 h", "20 m" or "3 s"."""
    unit = "h" if seconds >= 5400 else "m" if seconds >= 90 else "s"
    return f"{max(0.0, seconds) / UNITS[unit]:.3g} {unit}"


spoken = format_duration  # until sasa.reproduce uses the new name
