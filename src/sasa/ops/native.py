"""The library of kernels (csrc/): loaded once, when `sasa.ops` is imported.

Loading it defines the operators' schemas and registers its kernels with torch's dispatcher, for CPU tensors, and for
CUDA tensors if they are chosen. Without it `eager` runs instead, with the same results, and for CUDA
tensors Triton's kernels. The functions here say whether the library is in use, and if not, why.

Environment variables, read once: SASA_CPU names an instruction set (avx512, avx2, neon, portable) in place of the best
one of this machine; with SASA_CPU=off the library is not loaded. SASA_GPU, "cuda" or "triton", chooses between the CUDA
C++ and the Triton kernels for CUDA tensors.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

DIRECTORY = Path(__file__).parents[1] / "_native"
LIBRARY = "libsasa.so"
REASON = "why_not.txt"  # written by an installation that could not build the library


def load(directory: Path = DIRECTORY) -> str | None:
    """Load the library; return None, or a sentence that says why it is not in use."""
    if os.environ.get("SASA_CPU") == "off":
        return "the environment variable SASA_CPU is off"
    library, reason = directory / LIBRARY, directory / REASON
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
    """Warn if SASA_GPU names no kernels and so has no effect."""
    wanted = os.environ.get("SASA_GPU", "")
    if wanted not in ("", "cuda", "triton"):
        warnings.warn(f'SASA_GPU={wanted} is neither "cuda" nor "triton" and has no effect', stacklevel=2)


check_gpu_choice()
_MISSING = load()
_LOADED = hasattr(torch.ops.sasa, "cpu_kernels")


def instruction_set() -> str | None:
    """The instruction set in use; None without the library."""
    return None if _MISSING else torch.ops.sasa.cpu_kernels()


def cuda_missing() -> str | None:
    """Return None if CUDA kernels can be compiled and launched in this process, else a sentence that says why not.

    It searches for libraries and does not initialise CUDA.
    """
    if not _LOADED:
        return _MISSING
    return torch.ops.sasa.cuda_error() or None


def cuda_missing_on(device: int) -> str | None:
    """Return None if the CUDA kernels can run on that GPU, else the reason. It initialises the driver."""
    return torch.ops.sasa.cuda_error_on(device) or None


def cuda_not_chosen() -> str | None:
    """Return None if the dispatcher uses the CUDA C++ kernels for CUDA tensors, else a sentence that says why not."""
    return _CUDA_NOT_CHOSEN


def _find_cuda_not_chosen() -> str | None:
    if _LOADED and torch.ops.sasa.cuda_chosen():
        return None
    if not _LOADED or os.environ.get("SASA_GPU") == "cuda":
        return cuda_missing()
    return "the environment variable SASA_GPU does not choose the CUDA C++ kernels"


# Computed once: layers need it in every call, and compilers cannot trace an op that returns text.
_CUDA_NOT_CHOSEN = _find_cuda_not_chosen()


class CudaCompiler(NamedTuple):
    """The compiler of the CUDA kernels, and the cache of compiled kernels."""

    version: str  # of NVRTC
    file: str  # of NVRTC
    cache: str  # a directory
    cached: int  # number of kernels in the cache


def cuda_compiler() -> CudaCompiler | None:
    """The compiler, or None without NVRTC or without the library."""
    try:
        return CudaCompiler(*torch.ops.sasa.cuda_compiler()) if _LOADED else None
    except RuntimeError:
        return None


def missing() -> str | None:
    """Return None if the library's CPU kernels are in use, else a sentence that says why they are not."""
    return _MISSING
