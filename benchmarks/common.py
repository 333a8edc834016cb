"""What the benchmarks of the CPU and of the GPU share: the machine, and measured values as text and as JSON."""

import math
import os
import platform
from collections.abc import Sequence
from typing import Any

import torch

from sasa.machine import cpu_name
from sasa.markdown import markdown_table
from sasa.ops import backends
from sasa.ops.native import instruction_set
from sasa.threads import cores

Line = dict[str, Any]  # column name -> value


def describe_machine() -> dict[str, Any]:
    """Describe hardware and software, as reports record them; "load_before" is the load average."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "kernels": instruction_set(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backends": [str(backend) for backend in backends()],
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def table_of(lines: Sequence[Line]) -> str:
    """Format lines as a Markdown table with a column for every name that occurs."""
    names = list({name: None for line in lines for name in line})
    return markdown_table([names, *([cell(line.get(name)) for name in names] for line in lines)])


def in_words(line: Line) -> str:
    """Format one line as "name value, name value"."""
    return ", ".join(f"{name} {cell(value)}" for name, value in line.items() if value is not None)


def cell(value: Any) -> str:
    """Format a value with about three significant digits."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def plain(value: Any) -> Any:
    """Convert to what JSON can hold: infinities and NaN become text."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def first_line(error: BaseException) -> str:
    """Format an error as one line: its type and the first 150 characters of its first line."""
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {message[:150]}"
