"""Order and augmentation are functions of (seed, epoch, index): the number of workers changes nothing."""

from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sasa.data.classification import Subset, open_splits
from sasa.data.classification.batch import evaluation_loader, training_loader
from sasa.data.classification.transforms import Augmentation, Preprocessing
from sasa.data.loader import shares
from sasa.data.random_numbers import mix
from sasa.data.sampler import EpochBatches, epoch_order
from sasa.errors import ArgumentError, DataError

GRAY = Preprocessing(16, 1, (0.3,), (0.35,))


@settings(max_examples=40)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 4), st.integers(0, 9), st.integers(0, 60))
def test_batches_can_start_anywhere(size, batch_size, epochs, seed, start):
    whole = list(EpochBatches(size, batch_size, epochs, seed))
    rest = list(EpochBatches(size, batch_size, epochs, seed, start))
    assert rest == whole[start:]
    assert len(EpochBatches(size, batch_size, epochs, seed, start)) == len(rest)
    for epoch in range(epochs):
        indices = [index for batch in whole for e, index in batch if e == epoch]
        assert len(indices) == len(set(indices)) == size // min(size, batch_size) * min(size, batch_size)


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 2), (4, 1), (2, 2)])
def test_lanes_share_the_batch_of_one_process(world_size, accumulate):
    whole = list(EpochBatches(37, 8, 2, 5))
    lanes = []
    for rank in range(world_size):
        parts = list(EpochBatches(37, 8, 2, 5, rank=rank, world_size=world_size, accumulate=accumulate))
        lanes += [parts[number::accumulate] for number in range(accumulate)]
    assert [list(chain(*lists)) for lists in zip(*lanes, strict=True)] == whole


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 6), min_size=8, max_size=120),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 9),
)
def test_lanes_of_shards_are_apart_and_whole(groups, part, lanes, seed):
    """In an epoch no image is repeated, and a lane reads only its share of the files and two at its ends."""
    groups = sorted(groups)
    ranks = [
        list(EpochBatches(len(groups), part * lanes, 2, seed, rank=rank, world_size=lanes, groups=groups))
        for rank in range(lanes)
    ]
    steps = len(ranks[0]) // 2
    for epoch in range(2):
        read = [[i for batch in rank[epoch * steps : (epoch + 1) * steps] for _, i in batch] for rank in ranks]
        everything = list(chain(*read))
        assert len(everything) == len(set(everything)) == steps * len(ranks[0][0]) * lanes
        runs = []
        for lane in read:  # a lane's files follow each other in the epoch's order of files, cut at its ends
            runs.append({groups[i] for i in lane})
        for a, b in pairwise(runs):
            assert len(a & b) <= 1


def test_shards_come_in_another_order_each_epoch_and_are_mixed():
    groups = [n // 10 for n in range(100)]
    epochs = [
        [i for batch in list(EpochBatches(100, 10, 2, 3, groups=groups))[10 * e : 10 * e + 10] for _, i in batch]
        for e in range(2)
    ]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == list(range(100))
    assert epochs[0] != sorted(epochs[0], key=lambda i: groups[i])


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert len({mix(a, b) for a in range(30) for b in range(30)}) == 900


def collect(workers, start=0):
    train, _ = open_splits("digits", 0.9, 0)
    batches = EpochBatches(len(train), 32, 2, 3, start)
    loader = training_loader(train, GRAY, Augmentation("pad", 2), 3, batches, workers)
    return [batch.images for batch in loader]


def test_workers_and_a_later_start_change_nothing():
    torch.manual_seed(1)
    here = collect(0)
    torch.manual_seed(2)
    elsewhere = collect(1, start=4)
    for a, b in zip(here[4:], elsewhere, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(here[0], here[1])


def test_augmentation_leaves_the_global_random_numbers_alone():
    train, _ = open_splits("digits", 0.9, 0)

    def first(epoch):
        loader = training_loader(train, GRAY, Augmentation("resized"), 3, [[(epoch, 5)]], 0)
        torch.manual_seed(7)
        batch = next(loader)
        return batch.images, torch.rand(3)

    torch.manual_seed(7)
    torch.empty((), dtype=torch.int64).random_()  # the one number that every DataLoader draws for its workers
    expected = torch.rand(3)
    (a, rest), (b, _), (other, _) = first(0), first(0), first(1)
    assert torch.equal(rest, expected)
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


def test_evaluation_reads_every_image_once():
    _, held_out = open_splits("digits", 0.05, 0)
    labels = torch.cat([batch.labels for batch in evaluation_loader(held_out, GRAY, 32, 0)])
    assert labels.tolist() == list(held_out.labels)


@settings(max_examples=40)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 5))
def test_processes_share_the_evaluation(size, batch_size, world_size):
    class Some:
        def __len__(self):
            return size

    parts = [shares(Some(), batch_size, rank, world_size) for rank in range(world_size)]
    assert [i for part in parts for batch in part for _, i in batch] == list(range(size))
    assert max(len(batch) for part in parts for batch in part) <= batch_size


class Broken(Subset):
    """Digits of which some cannot be read."""

    def read(self, index, channels=3):
        if index % 5 == 2:
            raise DataError(f"{self.name(index)} cannot be read")
        return super().read(index, channels)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_ends_the_run_or_is_left_out(workers):
    source = Broken(open_splits("digits", 0.9, 0)[0], range(20))
    with pytest.raises(DataError, match=r"^digit \d+ cannot be read$"):
        list(evaluation_loader(source, GRAY, 8, workers))
    batches = list(evaluation_loader(source, GRAY, 8, workers, "skip"))
    assert [index for batch in batches for index in batch.skipped] == [2, 7, 12, 17]
    for batch in batches:
        assert batch.labels.tolist() == [source.labels[index] for index in batch.indices]
        assert len(batch.images) == len(batch) == len(batch.indices)
    assert sum(map(len, batches)) == 16
    with pytest.raises(ArgumentError, match="on_bad_image must be error or skip, got 'replace'"):
        list(evaluation_loader(source, GRAY, 8, workers, "replace"))


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (16, 16), (8, 8), (5, 40)])
def test_evaluation_is_square_and_normalised(size):
    image = Image.new("L", size, 255)
    tensor = GRAY.evaluation(image)
    assert tensor.shape == (1, 16, 16)
    torch.testing.assert_close(tensor, torch.full((1, 16, 16), 0.7 / 0.35))


def test_a_pixel_is_found_again_in_the_square():
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[40:44, 70:74] = 255
    preprocessing = Preprocessing(48, crop_fraction=0.8)
    y, x = preprocessing.place(41, 71, 60, 100)
    square = np.asarray(preprocessing.square(Image.fromarray(pixels)))
    assert square[int(y * 48), int(x * 48)].min() > 200
    with pytest.raises(ArgumentError, match="pixel 60,0 is outside the image of 60 x 100"):
        preprocessing.place(60, 0, 60, 100)
    with pytest.raises(ArgumentError, match="outside the centre crop"):
        preprocessing.place(30, 2, 60, 100)


def test_wrong_options_are_errors():
    with pytest.raises(ArgumentError, match="crop must be one of resized, pad, none; got 'center'"):
        Augmentation("center")
    with pytest.raises(ArgumentError, match="must have 1 values, one a channel"):
        Preprocessing(16, 1)
    with pytest.raises(ArgumentError, match=r"std must be 1e-18 to 1e\+18, got \(0\.0,\)"):
        Preprocessing(16, 1, (0.3,), (0.0,))
    with pytest.raises(ArgumentError, match=r"channels must be 3 \(RGB\) or 1 \(gray\), got 2"):
        Preprocessing(16, 2, (0.3, 0.3), (0.3, 0.3))
