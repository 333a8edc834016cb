"""The order of the pictures: a function of (seed, epoch), so a run can go on at any step."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from step `start` to the last step of the last epoch, without end between epochs.

    Args:
        size: pictures in the set.
        batch_size: pictures of a step, over all processes. The rest of an epoch that fills no batch is left out
            (another rest in every epoch).
        epochs: in all.
        seed: of the order.
        start: the first step to yield.
        rank, world_size: this process takes the `rank`-th contiguous part of each batch.
    """

    def __init__(
        self, size: int, batch_size: int, epochs: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.batch_size, self.epochs, self.seed = size, min(batch_size, size), epochs, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.size // self.batch_size

    def __len__(self) -> int:
        return max(0, self.steps_per_epoch * self.epochs - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        part = self.batch_size // self.world_size
        order, order_epoch = torch.empty(0), -1
        for step in range(self.start, self.steps_per_epoch * self.epochs):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(self.size, self.seed, epoch), epoch
            first = batch * self.batch_size + self.rank * part
            yield [(epoch, int(index)) for index in order[first : first + part]]


def epoch_order(size: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation of one epoch."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(mix(seed, epoch)))


def mix(*numbers: int) -> int:
    """One well-spread 63-bit seed from several integers (splitmix64's finaliser over a running sum)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
