"""Random numbers that depend only on their keys (seed, epoch, index), not on earlier draws."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

_MASK = 0xFFFFFFFFFFFFFFFF


def mix(*numbers: int) -> int:
    """Turn several integers into one well-spread seed of 63 bits (splitmix64 over a running sum)."""
    state = 0
    for number in numbers:
        state = _scramble((state + number) & _MASK)
    return state >> 1


def generator(*numbers: int) -> torch.Generator:
    """Make a random number generator that is seeded with `mix(*numbers)`."""
    return torch.Generator().manual_seed(mix(*numbers))


def uniform(seed: int, keys: list[tuple[int, int]], draws: int) -> np.ndarray:
    """Draw numbers in [0, 1) for B pairs (epoch, index): (B, draws), float64; row i depends on seed and keys[i] only.

    They are counter-based: number (i, d) is the upper 53 bits of `mix(seed, *keys[i], d)`.
    """
    pairs = np.array(keys, np.int64).reshape(len(keys), 2).astype(np.uint64)
    state = _scramble(np.full((len(keys), 1), seed & _MASK, np.uint64))
    for number in (pairs[:, :1], pairs[:, 1:], np.arange(draws, dtype=np.uint64)):
        state = _scramble(state + number)
    return (state >> 11).astype(np.float64) * 2.0**-53


def _scramble(state: Any) -> Any:
    """Apply one round of splitmix64 to an int below 2^64 or an array of uint64 (whose arithmetic wraps around)."""
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


@contextmanager
def seeded_numbers(seed: int, python_and_numpy: bool = False) -> Iterator[None]:
    """Seed torch's global CPU generator inside the `with` block, and restore its state afterwards.

    Args:
        seed: 0 to 2^63 - 1, as `mix` makes them.
        python_and_numpy: also the global generators of `random` and `numpy.random`, which takes 20 times longer.
    """
    # torch.random.fork_rng and torch.manual_seed handle all devices, and take 100 microseconds an image.
    default = torch.default_generator
    before = default.get_state()
    default.manual_seed(seed)
    try:
        with _seeded_python_and_numpy(seed) if python_and_numpy else nullcontext():
            yield
    finally:
        default.set_state(before)


@contextmanager
def _seeded_python_and_numpy(seed: int) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
