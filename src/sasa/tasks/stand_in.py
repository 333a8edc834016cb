"""Stand-ins for known data sets that are not on this machine: generated images, to measure the cost of a step.

Each task generates its own (`generated.py`). If a config's data is the bare name of a known set and no such directory
exists, as many images as that set has are generated. Any other missing path is an error: it is more likely a typing
mistake.
"""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class KnownSet:
    """The size of a public data set: classes, training images, held-out images."""

    classes: int
    training: int
    held_out: int


def noise(height: int, width: int, index: int) -> Image.Image:
    """Return the same noise for every `index`, moved down by as many pixels."""
    return Image.fromarray(np.roll(_pixels(height, width), index, 0))


@functools.cache
def _pixels(height: int, width: int) -> np.ndarray:
    """Draw the noise once: a dry run times its steps, not this."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
