"""Batches of tensors from a source: for training in an endless seeded order, for evaluation each picture once."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sasa.data.sampler import EpochBatches
from sasa.data.sources import Source
from sasa.data.transforms import Augmentation, Preprocessing, seeded


class TrainingPictures(Dataset):
    """(epoch, index) -> (tensor, label): the same whatever process or worker reads it."""

    def __init__(self, source: Source, preprocessing: Preprocessing, augmentation: Augmentation, seed: int) -> None:
        self.source, self.seed, self.channels = source, seed, preprocessing.channels
        self.pipeline = augmentation.pipeline(preprocessing)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        picture = self.source.read(index, self.channels)
        return seeded(self.pipeline, picture, self.seed, epoch, index), self.source.labels[index]


class EvaluationPictures(Dataset):
    """index -> (tensor, label), without chance."""

    def __init__(self, source: Source, preprocessing: Preprocessing) -> None:
        self.source, self.preprocessing = source, preprocessing

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.source.read(index, self.preprocessing.channels)
        return self.preprocessing.evaluation(picture), self.source.labels[index]


def training_loader(pictures: TrainingPictures, batches: EpochBatches, workers: int) -> Iterator[Any]:
    """Batches (pictures, labels) from the sampler's first step to its last."""
    return iter(DataLoader(pictures, batch_sampler=batches, num_workers=workers, worker_init_fn=_leave_signals))


def evaluation_loader(pictures: EvaluationPictures, batch_size: int, workers: int) -> DataLoader:
    """Batches (pictures, labels), every picture once."""
    return DataLoader(pictures, batch_size=batch_size, num_workers=workers, worker_init_fn=_leave_signals)


def _leave_signals(worker: int) -> None:
    """Ctrl-C goes to the whole process group; the training process alone decides what to do, and saves first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
