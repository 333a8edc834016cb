"""The machine that numbers were measured on."""

import os
import platform
from typing import Any

import torch

from sasa.machine import cpu_name
from sasa.ops import backends
from sasa.ops.native import instruction_set
from sasa.threads import cores


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
