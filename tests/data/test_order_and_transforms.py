"""Order and augmentation are functions of (seed, epoch, index): the number of workers changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sasa.data.loader import EvaluationPictures, TrainingPictures, evaluation_loader, training_loader
from sasa.data.sampler import EpochBatches, epoch_order, mix
from sasa.data.sources import open_splits
from sasa.data.transforms import Augmentation, Preprocessing
from sasa.errors import ArgumentError

GRAY = Preprocessing(16, 1, (0.3,), (0.35,))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 4), st.integers(0, 9), st.integers(0, 60))
def test_batches_can_start_anywhere(size, batch_size, epochs, seed, start):
    whole = list(EpochBatches(size, batch_size, epochs, seed))
    rest = list(EpochBatches(size, batch_size, epochs, seed, start))
    assert rest == whole[start:]
    assert len(EpochBatches(size, batch_size, epochs, seed, start)) == len(rest)
    for epoch in range(epochs):
        indices = [index for batch in whole for e, index in batch if e == epoch]
        assert len(indices) == len(set(indices)) == size // min(size, batch_size) * min(size, batch_size)


def test_ranks_share_the_batch_of_one_process():
    whole = list(EpochBatches(37, 8, 2, 5))
    parts = [list(EpochBatches(37, 8, 2, 5, rank=rank, world_size=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert len({mix(a, b) for a in range(30) for b in range(30)}) == 900


def collect(workers, start=0):
    train, _ = open_splits("digits", 0.9, 0)
    pictures = TrainingPictures(train, GRAY, Augmentation("pad", 2), seed=3)
    batches = EpochBatches(len(train), 32, 2, 3, start)
    return [tensors for tensors, _ in training_loader(pictures, batches, workers)]


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
    pictures = TrainingPictures(train, GRAY, Augmentation("resized"), seed=3)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = pictures[(0, 5)][0]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(pictures[(0, 5)][0], first)
    assert not torch.equal(pictures[(1, 5)][0], first)


def test_evaluation_reads_every_picture_once():
    _, held_out = open_splits("digits", 0.05, 0)
    loader = evaluation_loader(EvaluationPictures(held_out, GRAY), 32, 0)
    labels = torch.cat([labels for _, labels in loader])
    assert labels.tolist() == list(held_out.labels)


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (16, 16), (8, 8), (5, 40)])
def test_evaluation_is_square_and_normalised(size):
    picture = Image.new("L", size, 255)
    tensor = GRAY.evaluation(picture)
    assert tensor.shape == (1, 16, 16)
    torch.testing.assert_close(tensor, torch.full((1, 16, 16), 0.7 / 0.35))


def test_a_pixel_is_found_again_in_the_square():
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[40:44, 70:74] = 255
    preprocessing = Preprocessing(48, crop_fraction=0.8)
    y, x = preprocessing.place(41, 71, 60, 100)
    square = np.asarray(preprocessing.square(Image.fromarray(pixels)))
    assert square[int(y * 48), int(x * 48)].min() > 200
    with pytest.raises(ArgumentError, match="pixel 60,0 is outside the picture of 60 x 100"):
        preprocessing.place(60, 0, 60, 100)
    with pytest.raises(ArgumentError, match="not in the square at its centre"):
        preprocessing.place(30, 2, 60, 100)


def test_wrong_options_are_sentences():
    with pytest.raises(ArgumentError, match="crop must be one of resized, pad, none; got 'center'"):
        Augmentation("center")
    with pytest.raises(ArgumentError, match="must have 1 values, one a channel"):
        Preprocessing(16, 1)
