"""Batches of a source, read ahead by worker processes: the same for any number of processes and workers."""

import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from sasa.errors import ArgumentError, DataError, SasaError

ON_BAD_IMAGE = ("error", "skip")

Key = tuple[int, int]  # (epoch, index of the image in the source)
Sample = TypeVar("Sample")
Batch = TypeVar("Batch")
# (samples, their indices, indices of the images that could not be read) -> a batch
Collate = Callable[[list[Sample], list[int], list[int]], Batch]


def load(
    sample: Callable[[int, int], Sample],
    collate: Collate[Sample, Batch],
    batches: Iterable[list[Key]],
    workers: int,
    on_bad_image: str = "error",
) -> Iterator[Batch]:
    """Yield a batch for each list of keys, read ahead by `workers` processes, or in this one if that is 0.

    Args:
        sample: reads and transforms the image of an (epoch, index); a pure function of the two.
        collate: makes a batch of samples.
        batches: keys of each batch, as `EpochBatches` and `shares` give them.
        workers: number of processes.
        on_bad_image: see `check_on_bad_image`.

    Raises:
        ArgumentError: another value of `on_bad_image`.
        DataError: while iterating, an image cannot be read, unless `on_bad_image` is "skip".
        SasaError: while iterating, a worker process ended.
    """
    skip = check_on_bad_image(on_bad_image) == "skip"
    return _read(_Batches(sample, collate, skip), batches, workers)


def shares(source: Sized, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[Key]]:
    """Keys of this process's part of all images, by batch, in epoch 0; neighbours stay together, as in their files."""
    size = len(source)
    first, end = size * rank // world_size, size * (rank + 1) // world_size
    return [[(0, i) for i in range(at, min(at + batch_size, end))] for at in range(first, end, batch_size)]


def check_on_bad_image(value: str) -> str:
    """Check that the value is "error" (an image that cannot be read ends the run) or "skip" (it is left out)."""
    if value not in ON_BAD_IMAGE:
        raise ArgumentError(f"on_bad_image must be {' or '.join(ON_BAD_IMAGE)}, got {value!r}")
    return value


class _Batches(Dataset):
    """Maps [(epoch, index), ...] to a batch, or to the text of a `DataError`: workers cannot raise one unchanged."""

    def __init__(self, sample: Callable[[int, int], Any], collate: Collate, skip: bool) -> None:
        self.sample, self.collate, self.skip = sample, collate, skip

    def __getitems__(self, keys: list[Key]) -> Any:
        samples, indices, skipped = [], [], []
        for epoch, index in keys:
            try:
                samples.append(self.sample(epoch, index))
                indices.append(index)
            except DataError as error:
                if not self.skip:
                    return str(error)
                skipped.append(index)
        return self.collate(samples, indices, skipped)


def _read(dataset: _Batches, batches: Iterable[list[Key]], workers: int) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, as requested
        loader = DataLoader(
            dataset,
            batch_sampler=batches,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_ignore_signals,
            pin_memory=torch.cuda.is_available(),
        )
        stream = iter(loader)
    try:
        for batch in stream:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SasaError(
            f"a process that reads images ended: {str(error).splitlines()[0]} Out of memory, perhaps: "
            "try fewer data.workers, or 0"
        ) from error


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Ignore Ctrl-C and a closed terminal in a worker: all processes get the signal, and training saves first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
