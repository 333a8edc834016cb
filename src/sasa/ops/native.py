"""The library of CPU kernels (csrc/): loaded once, when `sasa.ops` is imported; or the sentence that says why not.

Loading registers its kernels with torch's dispatcher, for CPU tensors, under the operators that are defined in this
folder. Without it everything goes through `eager`, with the same results.

The environment variable SASA_CPU, read once, names an instruction set (avx512, avx2, neon, portable) in place of the
best that this machine runs; SASA_CPU=off leaves the library out.
"""

import os
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[1] / "_native"
LIBRARY = "libsasa_cpu.so"
REASON = "why_not.txt"  # the installation leaves it in place of the library


def load(folder: Path = FOLDER) -> str | None:
    """Load the library; None, or the sentence that says why it is not in use."""
    if os.environ.get("SASA_CPU") == "off":
        return "the environment variable SASA_CPU is off"
    library, reason = folder / LIBRARY, folder / REASON
    if not library.is_file():
        if reason.is_file():
            return reason.read_text().strip()
        if sys.platform not in ("linux", "darwin"):
            return f"there are CPU kernels for Linux and macOS only, and this is {sys.platform}"
        return f"this installation of sasa has no CPU kernels ({library} is missing): install it again with pip"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"the library of CPU kernels does not load: {error}"
    return torch.ops.sasa.cpu_kernels_error() or None


_MISSING = load()


def instruction_set() -> str | None:
    """The instruction set in use; None where the library is not."""
    return None if _MISSING else torch.ops.sasa.cpu_kernels()


def missing() -> str | None:
    """None where the library is in use, else the sentence that says why it is not."""
    return _MISSING
