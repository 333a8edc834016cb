"""Steps of the augmentation: effects, errors for wrong values, and randomness from the key only."""

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sasa.data.classification.transforms import Augmentation, Pipeline, Preprocessing, seeded
from sasa.data.random_numbers import mix, seeded_numbers, uniform
from sasa.errors import ArgumentError

RGB, GRAY = Preprocessing(16), Preprocessing(16, 1, (0.3,), (0.35,))
POLICIES = "rand-m9-mstd0.5-inc1 rand-m9-n14-p1.0-mmax20-tweights original-mstd0.5 v0r 3a augmix-m5-w4-b1".split()


def image(mode="RGB", size=(20, 17), seed=0):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def all_global_numbers():
    return torch.rand(4).tolist(), [random.random() for _ in range(3)], np.random.standard_normal(3).tolist()


def seed_all_global_numbers():
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    np.random.standard_normal(1)  # numpy keeps a second number for the next call: it must survive too
    random.gauss(0, 1)


@pytest.mark.parametrize("preprocessing", [RGB, GRAY], ids=["RGB", "L"])
@pytest.mark.parametrize("policy", ["", *POLICIES])
def test_a_pipeline_is_a_function_of_seed_epoch_and_index(policy, preprocessing):
    pipeline = Augmentation(auto_augment=policy, erasing=0.5).pipeline(preprocessing)
    source = image("RGB" if preprocessing.channels == 3 else "L")
    first = [seeded(pipeline, source, 1, 2, index) for index in range(30)]
    random.seed(3)
    np.random.seed(3)
    again = [seeded(pipeline, source, 1, 2, index) for index in reversed(range(30))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(tensor.shape == (preprocessing.channels, 16, 16) for tensor in first)
    assert len({tensor.numpy().tobytes() for tensor in first}) > 25
    assert not torch.equal(first[0], seeded(pipeline, source, 1, 3, 0))
    assert not torch.equal(first[0], seeded(pipeline, source, 2, 2, 0))


@pytest.mark.parametrize("policy", ["", *POLICIES])
def test_a_pipeline_can_be_sent_to_a_worker(policy):
    pipeline = Augmentation("pad", auto_augment=policy, erasing=0.5).pipeline(RGB)
    sent = pickle.loads(pickle.dumps(pipeline))
    for index in range(5):
        assert torch.equal(seeded(sent, image(), 0, 0, index), seeded(pipeline, image(), 0, 0, index))


def test_timm_is_imported_only_for_a_policy():
    program = """
import sys
from sasa.data.classification.transforms import Augmentation, Preprocessing
Augmentation("pad", auto_augment="rand-m9")
Augmentation("pad", erasing=0.5).pipeline(Preprocessing(16))
assert "timm" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("policy", ["", "rand-m9-mstd0.5", "augmix-m3"])
def test_the_global_random_state_is_unchanged(policy):
    pipeline = Augmentation(auto_augment=policy, erasing=1.0).pipeline(RGB)
    seed_all_global_numbers()
    expected = all_global_numbers()
    seed_all_global_numbers()
    for index in range(5):
        seeded(pipeline, image(), 0, 0, index)
    assert all_global_numbers() == expected


def test_the_global_random_state_is_restored_after_an_error():
    seed_all_global_numbers()
    expected = all_global_numbers()
    seed_all_global_numbers()
    pipeline = Pipeline([lambda _: all_global_numbers(), RGB.to_tensor], python_and_numpy=True)
    with pytest.raises(TypeError):
        seeded(pipeline, image(), 0, 0, 0)
    assert all_global_numbers() == expected


def test_counter_based_numbers_are_those_of_mix():
    keys = [(0, 0), (1, 5), (300, 2**40), (2**31, 7)]
    for seed in (0, 3, 2**62):
        numbers = uniform(seed, keys, 5)
        expected = [[(mix(seed, *key, draw) >> 10) / 2**53 for draw in range(5)] for key in keys]
        assert numbers.tolist() == expected
        assert uniform(seed, keys[2:3], 3).tolist() == [expected[2][:3]]
    assert uniform(0, [], 4).shape == (0, 4)


def test_counter_based_numbers_are_uniform_and_independent():
    numbers = uniform(1, [(epoch, index) for epoch in range(10) for index in range(1000)], 6)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T])
    assert np.abs(counts - 500).max() < 5 * 22  # five standard deviations
    related = np.corrcoef(np.concatenate([numbers[:-1].T, numbers[1:].T])) - np.eye(12)
    assert np.abs(related).max() < 0.05


def test_crop_scale_bounds_the_area_seen():
    # A ramp over a square: the difference of its ends tells the width of the crop.
    ramp = Image.fromarray(np.broadcast_to(np.arange(200, dtype=np.uint8), (200, 200)).copy())
    pipeline = Augmentation(crop_scale=0.5, flip=False).pipeline(Preprocessing(40, 1, (0.0,), (1.0,)))
    for index in range(60):
        row = seeded(pipeline, ramp, 0, 0, index)[0, 20] * 255
        assert float(row[-1] - row[0]) * 40 / 39 >= 200 * (0.5 * 3 / 4) ** 0.5 - 4


def test_erasing_leaves_the_mean_in_its_share_of_the_images():
    pipeline = Augmentation("none", flip=False, erasing=0.25).pipeline(RGB)
    plain = RGB.evaluation(image())
    changed = [seeded(pipeline, image(), 0, 0, index) for index in range(400)]
    erased = [tensor for tensor in changed if not torch.equal(tensor, plain)]
    assert 70 < len(erased) < 130
    assert all((tensor[tensor != plain] == 0).all() for tensor in erased)


def test_policies_see_gray_as_gray():
    pipeline = Augmentation("none", flip=False, auto_augment="rand-m9-n4-p1.0").pipeline(RGB)
    policy = pipeline.steps[1]
    for index in range(20):
        with seeded_numbers(index, python_and_numpy=True):
            as_gray = policy(image("L"))
        assert as_gray.mode == "L"
        assert as_gray.size == (20, 17)


@pytest.mark.parametrize("policy", ["rand-m0-n14-p1", "rand-m10-n14-p1-inc1", "v0", "augmix-m10-w9"])
def test_no_policy_takes_all_bits_from_a_pixel(policy):
    # timm asks Pillow to keep 0 bits at the ends of the scale, which newer Pillows refuse.
    pipeline = Augmentation("none", auto_augment=policy).pipeline(RGB)
    for index in range(40):
        seeded(pipeline, image(), 0, 0, index)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("random", "must be \"\" or start with one of rand, augmix, .*; got 'random'"),
        ("rand-foo", "'rand-foo' has the part 'foo'; after 'rand' timm knows m, n, p, mstd, mmax, inc, t"),
        ("rand-m9.5", "part 'm9.5'"),
        ("rand-tfoo", "part 'tfoo'"),
        ("rand-n20-tweights", "part 'n20'"),
        ("rand--m9", "part ''"),
        ("rand-p3", "part 'p3'"),
        ("original-m3", "part 'm3'; after 'original' timm knows mstd"),
        ("augmix-mstd", "part 'mstd'"),
        ("v1", "got 'v1'"),
    ],
)
def test_a_policy_unknown_to_timm_is_an_error(policy, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Augmentation(auto_augment=policy)


def test_a_policy_that_the_installed_timm_refuses_is_an_error(monkeypatch):
    def refuse(name, options):
        raise AssertionError("no longer")

    monkeypatch.setattr("timm.data.auto_augment.rand_augment_transform", refuse)
    with pytest.raises(ArgumentError, match="auto_augment 'rand-m9' is not a policy of the installed timm: no longer"):
        Augmentation(auto_augment="rand-m9").pipeline(RGB)


def test_wrong_values_are_errors():
    with pytest.raises(ArgumentError, match="crop_scale must be above 0 and at most 1, got 0"):
        Augmentation(crop_scale=0)
    with pytest.raises(ArgumentError, match=r"crop_scale must be above 0 and at most 1, got 1\.5"):
        Augmentation(crop_scale=1.5)
    with pytest.raises(ArgumentError, match=r"erasing must be from 0 to 1, got -0\.1"):
        Augmentation(erasing=-0.1)
    with pytest.raises(ArgumentError, match="crop_padding must be 0 or more pixels, got -1"):
        Augmentation(crop_padding=-1)
    with pytest.raises(ArgumentError, match=r"crop_fraction must be above 0 and at most 1, got 1\.1"):
        Preprocessing(16, crop_fraction=1.1)
