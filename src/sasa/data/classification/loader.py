"""Batches of a source, read by worker processes: for training in the sampler's order, for evaluation each once."""

import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sasa.data.classification import Source
from sasa.data.classification.batch import Batch, check_on_bad_image
from sasa.data.classification.transforms import Augmentation, Preprocessing, seeded
from sasa.data.sampler import EpochBatches
from sasa.errors import DataError, SasaError


def training_loader(
    source: Source,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    batches: EpochBatches,
    workers: int,
    on_bad_image: str = "error",
) -> Iterator[Batch]:
    """Augmented batches from the sampler's first to its last: the same whatever process or worker reads them.

    Raises:
        DataError: while iterating, an image that cannot be read, unless `on_bad_image` is "skip".
    """
    transform = partial(_augmented, augmentation.pipeline(preprocessing), seed)
    return read(_Images(source, preprocessing, transform, on_bad_image), batches, workers)


def evaluation_loader(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    on_bad_image: str = "error",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Batches without augmentation; over all processes every image comes once.

    Raises:
        DataError: while iterating, an image that cannot be read, unless `on_bad_image` is "skip".
    """
    images = _Images(source, preprocessing, partial(_plain, preprocessing), on_bad_image)
    return read(images, shares(source, batch_size, rank, world_size), workers)


def shares(source: Source, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[tuple[int, int]]]:
    """This process's part of all images, a list for each batch, as the sampler yields them (epoch 0).

    Neighbours stay together, so that a process reads its own files.
    """
    size = len(source)
    first, end = size * rank // world_size, size * (rank + 1) // world_size
    return [[(0, i) for i in range(at, min(at + batch_size, end))] for at in range(first, end, batch_size)]


def _augmented(pipeline: Any, seed: int, image: Image.Image, epoch: int, index: int) -> Tensor:
    return seeded(pipeline, image, seed, epoch, index)


def _plain(preprocessing: Preprocessing, image: Image.Image, _epoch: int, _index: int) -> Tensor:
    return preprocessing.evaluation(image)


class _Images(Dataset):
    """[(epoch, index), ...] -> Batch, or the text of a `DataError`: raised in a worker it would lose its shape."""

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        transform: Callable[[Image.Image, int, int], Tensor],
        on_bad_image: str,
    ) -> None:
        self.source, self.transform = source, transform
        self.preprocessing = preprocessing
        self.skip = check_on_bad_image(on_bad_image) == "skip"

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch | str:
        size = self.preprocessing.image_size
        tensors, indices, skipped = [torch.empty(0, self.preprocessing.channels, size, size)], [], []
        for epoch, index in keys:
            try:
                image = self.source.read(index, self.preprocessing.channels)
            except DataError as error:
                if not self.skip:
                    return str(error)
                skipped.append(index)
                continue
            tensors.append(self.transform(image, epoch, index)[None])
            indices.append(index)
        labels = torch.tensor([self.source.labels[index] for index in indices], dtype=torch.int64)
        return Batch(torch.cat(tensors), labels, torch.tensor(indices, dtype=torch.int64), skipped)


def read(images: Dataset, batches: Iterable[list[tuple[int, int]]], workers: int) -> Iterator[Batch]:
    """What `images` gives for each list of keys, read ahead by `workers` processes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as was asked for
        loader = DataLoader(
            images,
            batch_sampler=batches,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals,
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


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals(worker: int) -> None:
    """Ctrl-C goes to the whole process group; the training process alone decides what to do, and saves first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
