"""Mixup and cutmix: shares of images and labels agree, and randomness comes only from the seed."""

import pytest
import torch
import torch.nn.functional as F

from sasa.data.classification.mixing import Mixing
from sasa.data.random_numbers import mix
from sasa.errors import ArgumentError


def batch(count=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 8, 10, generator=generator), torch.arange(count) % classes


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.8, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_shares(mixup, cutmix, smoothing):
    mixing = Mixing(mixup, cutmix, 5, smoothing)
    for seed in range(20):
        images, targets = mixing(*batch(), seed)
        assert images.shape == (6, 3, 8, 10)
        assert targets.shape == (6, 5)
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        assert targets.min() >= smoothing / 5 - 1e-7


def test_without_mixing_the_loss_is_that_of_label_smoothing():
    images, labels = batch()
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    for smoothing in (0.0, 0.1, 1.0):
        same, targets = Mixing(0.0, 0.0, 5, smoothing)(images, labels, 3)
        assert same is images
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert abs(F.cross_entropy(logits, targets) - expected) < 1e-6


def test_mixup_adds_in_the_shares_of_the_targets():
    images, labels = batch()
    for seed in range(10):
        mixed, targets = Mixing(0.8, 0.0, 6, 0.0)(images, labels := torch.arange(6), seed)
        share = targets[0, labels[0]]
        assert 0 <= share <= 1
        torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0))


def test_cutmix_pastes_a_rectangle_of_the_share_of_the_targets():
    images, labels = batch(6)[0], torch.arange(6)
    shares = set()
    for seed in range(20):
        mixed, targets = Mixing(0.0, 1.0, 6, 0.0)(images, labels, seed)
        pasted = (mixed == images.roll(1, 0)).all(1)
        assert torch.equal(mixed, torch.where(pasted[:, None], images.roll(1, 0), images))
        rows, columns = pasted[0].any(1).sum(), pasted[0].any(0).sum()
        assert pasted[0].sum() == rows * columns
        torch.testing.assert_close(1 - targets[0, 0], pasted[0].float().mean())
        shares.add(float(targets[0, 0]))
    assert len(shares) > 10


def test_mixing_is_a_function_of_its_arguments():
    mixing, (images, labels) = Mixing(0.8, 1.0, 5, 0.1), batch()
    before = images.clone()
    torch.manual_seed(1)
    first = mixing(images, labels, mix(0, 1))
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    again = Mixing(0.8, 1.0, 5, 0.1)(images, labels, mix(0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(images, before)
    assert not torch.equal(first[0], mixing(images, labels, mix(0, 2))[0])


def test_both_take_turns_and_lambda_is_beta():
    images, labels = torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])
    images[1] = 1
    pasted, lambdas = 0, []
    for step in range(600):
        mixed, targets = Mixing(0.4, 1.0, 2, 0.0)(images, labels, mix(step))
        if set(mixed.unique().tolist()) <= {0.0, 1.0}:
            pasted += 1
        else:
            lambdas.append(float(targets[0, 0]))
    assert 240 < pasted < 370  # a few lambdas of mixup are 1 but for rounding
    lambdas = torch.tensor(lambdas)
    assert abs(lambdas.mean() - 0.5) < 0.08
    assert abs(lambdas.var() - 1 / (4 * 1.8)) < 0.03  # of Beta(0.4, 0.4)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_one_image_is_mixed_with_itself(mixup, cutmix):
    images, labels = batch(1)
    mixed, targets = Mixing(mixup, cutmix, 5, 0.0)(images, labels, 5)
    torch.testing.assert_close(mixed, images)
    torch.testing.assert_close(targets, F.one_hot(labels, 5).float())


def test_wrong_values_are_errors():
    with pytest.raises(ArgumentError, match=r"mixup must be 0 \(none\) or the alpha of a Beta distribution, got -0\.1"):
        Mixing(-0.1, 0.0, 5, 0.0)
    with pytest.raises(ArgumentError, match=r"cutmix must be .*, got -1"):
        Mixing(0.0, -1.0, 5, 0.0)
    with pytest.raises(ArgumentError, match="label_smoothing must be from 0 to 1, got 2"):
        Mixing(0.0, 0.0, 5, 2.0)
