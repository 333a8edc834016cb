"""The order of the images: a function of (seed, epoch), so that a run can resume at any step.

A step's batch is split into lanes, one for each process and each of its accumulation steps. Two processes and one
process that accumulates over two steps therefore see the same lanes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from sasa.data.random_numbers import generator
from sasa.errors import UsageError

# Images that are shuffled together where files are read one after the other. At ImageNet's 110 kB an image, a window
# fits into the row groups of parquet files that a process keeps (512 MiB).
WINDOW = 4096


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Lists of (epoch, index): the lanes of this process, from step `start` to the last step of the last epoch.

    Without groups a batch is the next part of the epoch's permutation, split into lanes: the same images for any
    number of processes. With groups (shards) each lane has its own part of the epoch, so that a process reads its
    own files; then the batches depend on the number of lanes.

    Args:
        size: images in the set.
        batch_size: images in a step, over all lanes; at most `size`. The incomplete last batch of an epoch is left
            out (other images in every epoch).
        epochs: total number.
        seed: of the order.
        start: the first step to yield.
        rank, world_size: this process's rank, and the number of processes.
        accumulate: lanes of this process in a step, yielded one after the other.
        groups: for each image the number of its file, for files that are read one after the other.

    Raises:
        UsageError: batch_size is not divisible by the number of lanes, or there are fewer images than lanes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        epochs: int,
        seed: int,
        start: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.lanes = world_size * accumulate
        if batch_size % self.lanes:
            raise UsageError(
                f"recipe.batch_size ({batch_size}) must be divisible by the number of processes ({world_size}) times "
                f"recipe.accumulate ({accumulate})"
            )
        if size < self.lanes:
            raise UsageError(f"{size} images are too few for {self.lanes} parts of a batch")
        self.part = min(batch_size, size) // self.lanes
        self.batch_size = self.part * self.lanes
        self.size, self.epochs, self.seed, self.start = size, epochs, seed, start
        self.own = range(rank * accumulate, (rank + 1) * accumulate)
        self.groups = None if groups is None else np.asarray(groups)

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches in an epoch."""
        return self.size // self.batch_size

    @property
    def steps(self) -> int:
        """Batches in all epochs."""
        return self.steps_per_epoch * self.epochs

    def __len__(self) -> int:
        return max(0, self.steps - self.start) * len(self.own)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = torch.empty(0), -1
        for step in range(self.start, self.steps):
            epoch, number = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self.epoch_lanes(epoch), epoch
            for lane in self.own:
                yield [(epoch, index) for index in order[number, lane].tolist()]

    def epoch_lanes(self, epoch: int) -> Tensor:
        """The indices of an epoch, (steps_per_epoch, lanes, part)."""
        used = self.steps_per_epoch * self.batch_size
        if self.groups is None:
            return epoch_order(self.size, self.seed, epoch)[:used].view(-1, self.lanes, self.part)
        order = grouped_order(self.groups, self.seed, epoch)[:used].view(self.lanes, -1)
        mixed = torch.cat([mixed_windows(lane, self.seed, epoch) for lane in order])
        return mixed.view(self.lanes, -1, self.part).transpose(0, 1)


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """The permutation of one epoch."""
    return torch.randperm(size, generator=generator(seed, epoch))


def grouped_order(groups: np.ndarray, seed: int, epoch: int) -> Tensor:
    """All indices, group by group in a permuted order; within a group in their own order."""
    numbers, inverse = np.unique(groups, return_inverse=True)
    places = epoch_order(len(numbers), seed, epoch).argsort()
    return places[torch.from_numpy(inverse)].argsort(stable=True)


def mixed_windows(indices: Tensor, seed: int, epoch: int) -> Tensor:
    """The indices with each window of `WINDOW` neighbours permuted."""
    first = int(indices[0]) if len(indices) else 0  # lanes begin at different images, and so are shuffled differently
    source = generator(seed, epoch, first)
    return torch.cat([w[torch.randperm(len(w), generator=source)] for w in indices.split(WINDOW)])
