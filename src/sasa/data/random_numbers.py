"""Random numbers that are functions of what they are for, not of what was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@contextmanager
def seeded_numbers(seed: int, python_and_numpy: bool = False) -> Iterator[None]:
    """Inside, torch's global numbers of the CPU come from `seed`; afterwards they go on as if nothing had been drawn.

    Args:
        seed: 0 to 2^63 - 1, as `mix` makes them.
        python_and_numpy: the same for the global numbers of `random` and `numpy.random`, which takes 20 times longer.
    """
    # torch.random.fork_rng and torch.manual_seed would see to all devices, and take 100 microseconds an image.
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        if python_and_numpy:
            with _seeded_python_and_numpy(seed):
                yield
        else:
            yield
    finally:
        generator.set_state(before)


@contextmanager
def _seeded_python_and_numpy(seed: int) -> Iterator[None]:
    import random

    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def uniform(seed: int, keys: list[tuple[int, int]], draws: int) -> np.ndarray:
    """Numbers in [0, 1) by counting: row i depends on `seed` and keys[i] alone, and a draw on its place in the row.

    Number (i, d) is the upper 53 bits of `mix(seed, *keys[i], d)`.

    Args:
        seed: any integer.
        keys: B pairs (epoch, index).
        draws: numbers for each pair.

    Returns:
        (B, draws), float64.
    """
    pairs = np.array(keys, np.int64).reshape(len(keys), 2).astype(np.uint64)
    state = _scramble(np.full((len(keys), 1), seed & 0xFFFFFFFFFFFFFFFF, np.uint64))
    for number in (pairs[:, :1], pairs[:, 1:], np.arange(draws, dtype=np.uint64)):
        state = _scramble(state + number)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _scramble(state: np.ndarray) -> np.ndarray:
    """One round of `mix`, for arrays: in numpy unsigned products wrap around, as they must here."""
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
