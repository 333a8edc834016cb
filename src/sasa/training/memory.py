"""How much memory a run took, and what to do when there is too little."""

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator

import torch

from sasa.errors import SasaError
from sasa.training.settings import RecipeConfig

NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory")
ONE_VALUE = ("more than 1 value per channel", "more than one value for each channel")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next step, where it is glibc; whether it does.

    A step takes and frees maps of many megabytes. By default each goes back to the system, and comes again page by
    page, zeroed: a fifth to a third of a training step on a CPU (benchmarks/README.md). Nothing else changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def peak_memory_gb() -> float:
    """Most memory that this process held, in GB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


@contextlib.contextmanager
def explained(recipe: RecipeConfig) -> Iterator[None]:
    """Turns what torch raises on a batch that is too large, or too small, into a sentence with a way out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in NO_MEMORY):
            raise
        raise SasaError(too_large(recipe)) from error
    except ValueError as error:
        if not any(text in str(error) for text in ONE_VALUE):
            raise
        raise SasaError(
            f"batch norm needs more than one value for each channel, and has one: recipe.batch_size "
            f"{recipe.batch_size} in {recipe.accumulate} parts is too small for these images"
        ) from error


def too_large(recipe: RecipeConfig) -> str:
    """What to try when a step does not fit."""
    parts = 2 * recipe.accumulate
    return (
        f"out of memory in a step of {recipe.batch_size} images: try --set recipe.accumulate={parts} (the same step "
        f"in {parts} smaller parts), --batch-size {max(1, recipe.batch_size // 2)}, "
        "or --set run.gradient_checkpointing=true"
    )
