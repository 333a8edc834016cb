"""The machine that the process runs on."""

import platform
from pathlib import Path


def cpu_name() -> str:
    """The model name of the CPU; its architecture if the system reports no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
