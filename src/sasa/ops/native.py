"""The library of kernels (csrc/): loaded once, when `sasa.ops` is imported; or the sentence that says why not.

Loading registers its kernels with torch's dispatcher under the operators that are defined in this folder: for CPU
tensors, and for CUDA tensors where that is chosen. Without it everything goes through `eager`, with the same results,
or for CUDA tensors through Triton.

Environment variables, read once: SASA_CPU names an instruction set (avx512, avx2, neon, portable) in place of the best
that this machine runs; SASA_CPU=off leaves the whole library out. SASA_GPU, "cuda" or "triton", chooses between the
CUDA C++ and the Triton kernels for CUDA tensors.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

FOLDER = Path(__file__).parents[1] / "_native"
LIBRARY = "libsasa.so"
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


def check_gpu_choice() -> None:
    """Warn where SASA_GPU names no kernels: it would otherwise be passed over in silence."""
    wanted = os.environ.get("SASA_GPU", "")
    if wanted not in ("", "cuda", "triton"):
        warnings.warn(f'SASA_GPU={wanted} is neither "cuda" nor "triton", and chooses nothing', stacklevel=2)


check_gpu_choice()
_MISSING = load()
_LOADED = hasattr(torch.ops.sasa, "cpu_kernels")


def instruction_set() -> str | None:
    """The instruction set in use; None where the library is not."""
    return None if _MISSING else torch.ops.sasa.cpu_kernels()


def cuda_missing() -> str | None:
    """None where CUDA kernels can be compiled and launched in this process, else the sentence that says why not.

    It looks for libraries and does not initialise CUDA.
    """
    if not _LOADED:
        return _MISSING
    return torch.ops.sasa.cuda_error() or None


def cuda_missing_on(device: int) -> str | None:
    """None where the CUDA kernels can run on that GPU, else the sentence that says why not. Initialises the driver."""
    return torch.ops.sasa.cuda_error_on(device) or None


def cuda_not_chosen() -> str | None:
    """None where the dispatcher runs the CUDA C++ kernels for CUDA tensors, else the sentence that says why not."""
    return _CUDA_NOT_CHOSEN


def _find_cuda_not_chosen() -> str | None:
    if _LOADED and torch.ops.sasa.cuda_chosen():
        return None
    if not _LOADED or os.environ.get("SASA_GPU") == "cuda":
        return cuda_missing()
    return "the environment variable SASA_GPU does not choose the CUDA C++ kernels"


# Once: layers ask in every call, and compilers cannot trace an op that returns text.
_CUDA_NOT_CHOSEN = _find_cuda_not_chosen()


class CudaCompiler(NamedTuple):
    """What compiles the CUDA kernels of this process, and where they are kept."""

    version: str  # of NVRTC
    file: str  # NVRTC's
    cache: str  # a directory
    cached: int  # kernels in it


def cuda_compiler() -> CudaCompiler | None:
    """None where there is no NVRTC or no library."""
    try:
        return CudaCompiler(*torch.ops.sasa.cuda_compiler()) if _LOADED else None
    except RuntimeError:
        return None


def missing() -> str | None:
    """None where the library's CPU kernels are in use, else the sentence that says why they are not."""
    return _MISSING
