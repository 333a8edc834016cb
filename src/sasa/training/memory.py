"""Memory of a run: the peak, and advice in the message when it runs out."""

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator

import torch

from sasa.errors import SasaError, out_of_memory
from sasa.training.settings import RecipeConfig

ONE_VALUE = ("more than 1 value per channel", "more than one value for each channel")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next step; return whether the C library supports it.

    A step allocates and frees feature maps of many megabytes. By default each goes back to the system, which zeroes it
    page by page when it is allocated again: a fifth to a third of a training step on a CPU (benchmarks/README.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def peak_memory_gb() -> float:
    """Return the peak memory of this process in GB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


@contextlib.contextmanager
def batch_size_errors(recipe: RecipeConfig, part: int) -> Iterator[None]:
    """Turn torch's errors about a batch that is too large or too small into a `SasaError` with advice.

    Args:
        recipe: of the run.
        part: images in a micro-batch.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        parts = 2 * recipe.accumulate
        raise SasaError(
            f"out of memory in a step of {recipe.batch_size} images: try --set recipe.accumulate={parts} (the same "
            f"step in {parts} smaller parts), --batch-size {max(1, recipe.batch_size // 2)}, "
            "or --set run.gradient_checkpointing=true"
        ) from error
    except ValueError as error:
        if not any(text in str(error) for text in ONE_VALUE):
            raise
        images = f"{part} images, of which only one could be read" if part > 1 else "1 image"
        raise SasaError(
            f"batch norm needs more than one value for each channel, and has one: the smallest feature map is 1 x "
            f"1, and micro-batches are of {images} (recipe.batch_size {recipe.batch_size}, "
            f"recipe.accumulate {recipe.accumulate}); use more images, larger micro-batches or a larger data.image_size"
        ) from error
