"""Sets kept in memory: the distributions of torchvision, exact crops, and the same tensor in every batch."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from sasa.data.classification import Source, in_memory, open_splits
from sasa.data.classification.batched_augmentation import draw_boxes, taps
from sasa.data.classification.in_memory import InMemoryImages
from sasa.data.classification.transforms import Augmentation, Preprocessing
from sasa.data.random_numbers import uniform
from sasa.errors import ArgumentError, DataError

MIXED_SIZES = [(40, 31), (25, 61), (24, 24), (23, 90), (100, 24)]
GRAY = Preprocessing(16, 1, (0.3,), (0.35,))
AUGMENTATIONS = [
    Augmentation("resized", erasing=0.5),
    Augmentation("pad", 3, erasing=0.5),
    Augmentation("none"),
]


class Made(Source):
    """Images of random pixels, of the given sizes (width, height); some cannot be read."""

    def __init__(self, sizes, broken=()):
        self.classes, self.labels, self.sizes, self.broken = (
            ["a", "b"],
            [i % 2 for i in range(len(sizes))],
            sizes,
            broken,
        )
        self.reads = 0

    def read(self, index, channels=3):
        self.reads += 1
        if index in self.broken:
            raise DataError(f"{self.name(index)} is torn")
        width, height = self.sizes[index]
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        return Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")

    def name(self, index):
        return f"made {index}"


def kept(source, preprocessing, augmentation, seed=5, **options):
    return InMemoryImages(source, preprocessing, augmentation, seed, "cpu", **options)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda a: a.crop)
@pytest.mark.parametrize("preprocessing", [GRAY, Preprocessing(24, crop_fraction=0.9)], ids=["gray", "rgb"])
def test_an_image_is_the_same_in_every_batch(augmentation, preprocessing):
    images = kept(Made([(29, 27)] * 70), preprocessing, augmentation)
    keys = [(i % 3, i) for i in range(64)]
    whole = images.training_batch(keys)
    assert whole.images.shape == (64, preprocessing.channels, *[preprocessing.image_size] * 2)
    assert whole.images.dtype == torch.float32
    assert whole.images.is_contiguous(memory_format=torch.channels_last)
    assert images.evaluation_batch([0, 1]).images.is_contiguous(memory_format=torch.channels_last)
    assert whole.labels.tolist() == [i % 2 for i in range(64)]
    assert whole.indices.tolist() == list(range(64))
    for i in range(0, 64, 7):
        assert torch.equal(images.training_batch([keys[i]]).images[0], whole.images[i])
    odd = [keys[i] for i in (63, 5, 40, 5, 0)]
    torch.manual_seed(9)
    assert torch.equal(images.training_batch(odd).images, whole.images[[63, 5, 40, 5, 0]])
    if augmentation.crop != "none":
        assert not torch.equal(images.training_batch([(7, 0)]).images[0], whole.images[0])
        other = kept(Made([(29, 27)] * 70), preprocessing, augmentation, seed=6)
        assert not torch.equal(other.training_batch(keys).images, whole.images)


@pytest.mark.parametrize("sizes", [[(24, 24)] * 5, [(40, 31)] * 5, MIXED_SIZES])
@pytest.mark.parametrize("fraction", [1.0, 0.9])
def test_evaluation_is_that_of_the_loader_bit_for_bit(sizes, fraction):
    preprocessing, source = Preprocessing(24, crop_fraction=fraction), Made(sizes)
    expected = torch.stack([preprocessing.evaluation(source.read(i)) for i in range(5)])
    for augmentation in (None, Augmentation("pad"), Augmentation("none")):
        batch = kept(source, preprocessing, augmentation).evaluation_batch(range(5))
        assert torch.equal(batch.images, expected)
    resized = kept(source, preprocessing, Augmentation("resized"))
    got = resized.evaluation_batch([4, 0, 1, 2, 3]).images[[1, 2, 3, 4, 0]]
    if min(resized.stored_size) == preprocessing.resized_side:
        assert torch.equal(got, expected)
    else:
        assert (got - expected).abs().max() < 1.01 / 255 / min(preprocessing.std)


def test_pad_crops_are_exact_and_uniform():
    preprocessing = Preprocessing(8, 1, (0.5,), (0.5,))
    images = kept(Made([(8, 8)]), preprocessing, Augmentation("pad", 2))
    padded = F.pad(torch.from_numpy(np.array(images.source.read(0, 1))), (2, 2, 2, 2))
    found = Counter()
    candidates = {}
    for top in range(5):
        for left in range(5):
            for flipped in (False, True):
                part = padded[top : top + 8, left : left + 8]
                tensor = preprocessing.to_tensor(Image.fromarray(part.numpy()))
                candidates[(tensor.flip(2) if flipped else tensor).numpy().tobytes()] = top, left, flipped
    for tensor in images.training_batch([(epoch, 0) for epoch in range(5000)]).images:
        found[candidates[tensor.contiguous().numpy().tobytes()]] += 1
    assert len(found) == 50
    assert max(abs(count - 100) for count in found.values()) < 45


def test_resized_crops_are_those_of_torch_with_antialias():
    for height, side in ((20, 32), (32, 32), (45, 16), (16, 16)):
        source = torch.rand(1, 1, height, height, generator=torch.Generator().manual_seed(0))
        for start, length in ((0, height), (3, 11), (height - 5, 5), (1, 1)):
            count = math.ceil(2 * max(1.0, height / side))
            pixel, weight = taps(np.array([start]), np.array([length]), side, count)
            rows = (source[0, 0][torch.from_numpy(pixel[0])] * torch.from_numpy(weight[0])[:, :, None]).sum(1)
            part = source[:, :, start : start + length]
            expected = F.interpolate(part, (side, height), mode="bilinear", antialias=True)[0, 0]
            torch.testing.assert_close(rows.float(), expected, atol=1e-5, rtol=1e-5)


def test_a_whole_resized_crop_is_a_resize():
    images = kept(Made([(20, 20)] * 4), GRAY, Augmentation("resized", crop_scale=1.0))
    plain = torch.cat([GRAY.evaluation(images.source.read(i, 1)) for i in range(4)])
    seen = 0
    for epoch in range(40):  # an aspect ratio other than 1 does not fit, and few draws are that close to 1
        maps = images.training_batch([(epoch, i) for i in range(4)]).images[:, 0]
        for tensor, expected in zip(maps, plain, strict=True):
            seen += any((tensor - way).abs().max() < 1.5 / 255 / 0.35 for way in (expected, expected.flip(1)))
    assert seen > 80


def test_boxes_are_distributed_as_torchvision_draws_them():
    count, size = 4000, (32, 40)
    chance = uniform(0, [(0, i) for i in range(count)], 22)
    torch.manual_seed(0)
    for transform, scale, ratio, whole in (
        (v2.RandomResizedCrop(8), (0.08, 1.0), (3 / 4, 4 / 3), True),
        (v2.RandomResizedCrop(8, scale=(0.6, 1.0)), (0.6, 1.0), (3 / 4, 4 / 3), True),
        (v2.RandomErasing(1.0), (0.02, 0.33), (0.3, 3.3), False),
    ):
        box = draw_boxes(chance, size, scale, ratio, whole)
        ours = np.stack([box.top, box.left, box.height, box.width, box.height * box.width], 1).astype(float)
        rows = [transform.make_params([torch.empty(3, *size)]) for _ in range(count)]
        names = ("top", "left", "height", "width") if whole else ("i", "j", "h", "w")
        theirs = np.array([[row[name] for name in names] for row in rows], float)
        theirs = np.concatenate([theirs, theirs[:, 2:3] * theirs[:, 3:4]], 1)
        error = 5 * theirs.std(0) / (count / 2) ** 0.5
        assert (np.abs(ours.mean(0) - theirs.mean(0)) < error).all()
        for q in (0.1, 0.5, 0.9):
            assert (np.abs(np.quantile(ours, q, 0) - np.quantile(theirs, q, 0)) <= 1 + 2 * error).all()
        assert ((box.top >= 0) & (box.top + box.height <= size[0])).all()
        assert ((box.left >= 0) & (box.left + box.width <= size[1])).all()


@pytest.mark.parametrize("size", [(10, 60), (60, 10), (30, 30)])
def test_a_crop_that_never_fits_is_the_largest_in_the_middle(size):
    chance = np.full((1, 22), 0.999)  # nearly the whole area at an aspect of nearly 4 to 3
    box = draw_boxes(chance, size, (0.08, 1.0), (3 / 4, 4 / 3), True)
    crop = v2.RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.33, 4 / 3))
    crop.ratio = (3 / 4, 4 / 3)  # the tries draw from the narrow range, the fallback from this one
    expected = crop.make_params([torch.empty(3, *size)])
    got = [int(x[0]) for x in (box.top, box.left, box.height, box.width)]
    assert got == [expected[name] for name in ("top", "left", "height", "width")]


def test_shares_of_flips_and_erasures():
    images = kept(Made([(16, 16)]), GRAY, Augmentation("none"))
    plain = images.evaluation_batch([0]).images[0]
    keys = [(epoch, 0) for epoch in range(2000)]
    flips = [not torch.equal(tensor, plain) for tensor in images.training_batch(keys).images]
    assert abs(sum(flips) - 1000) < 112
    erasing = kept(Made([(16, 16)]), GRAY, Augmentation("none", flip=False, erasing=0.3))
    changed = [tensor for tensor in erasing.training_batch(keys).images if not torch.equal(tensor, plain)]
    assert abs(len(changed) - 600) < 103
    shares = [float((tensor == 0).float().mean()) for tensor in changed]
    assert abs(np.mean(shares) - 0.175) < 0.02
    assert all((tensor[tensor != plain] == 0).all() for tensor in changed)


def test_stored_images_depend_on_crop_and_sizes():
    preprocessing = Preprocessing(20, crop_fraction=0.8)
    resized = Augmentation("resized")
    assert kept(Made([(30, 28)] * 3), preprocessing, resized).stored_size == (28, 30)
    assert kept(Made([(30, 28), (28, 30), (9, 9)]), preprocessing, resized).stored_size == (25, 25)
    assert kept(Made([(51, 51)] * 3), preprocessing, resized).stored_size == (25, 25)
    assert kept(Made([(30, 28)] * 3), preprocessing, Augmentation("pad")).stored_size == (20, 20)
    assert kept(Made([(30, 28)] * 3), preprocessing, None).stored_size == (20, 20)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda a: a.crop)
def test_bad_images_are_left_out_and_listed(augmentation):
    source = Made([(16, 16)] * 6, broken=(0, 4))
    with pytest.raises(DataError, match="made 0 is torn"):
        kept(source, GRAY, augmentation)
    images = kept(source, GRAY, augmentation, on_bad_image="skip")
    assert images.bad == [0, 4]
    batch = images.training_batch([(0, 4), (0, 1), (0, 0), (0, 3)])
    assert (batch.indices.tolist(), batch.labels.tolist(), batch.skipped) == ([1, 3], [1, 1], [4, 0])
    clean = kept(Made([(16, 16)] * 6), GRAY, augmentation)
    assert torch.equal(batch.images, clean.training_batch([(0, 1), (0, 3)]).images)
    batch = images.evaluation_batch([0, 1, 2])
    assert (batch.indices.tolist(), batch.skipped, len(batch.images)) == ([1, 2], [0], 2)
    for empty in (images.training_batch([(0, 4)]), images.evaluation_batch([4])):
        assert (empty.images.shape, len(empty), empty.skipped) == ((0, 1, 16, 16), 0, [4])
    with pytest.raises(DataError, match="none of the 2 images can be read, made 0 being the first"):
        kept(Made([(16, 16)] * 2, broken=(0, 1)), GRAY, augmentation, on_bad_image="skip")


def test_a_set_too_large_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(in_memory, "available_memory", lambda device: 10_000)
    source = Made([(16, 16)] * 40)
    sentence = r"data\.in_memory needs 1\.02e-05 GB for 40 images of 16 x 16 pixels, more than 80 % of the 1e-05 GB"
    for augmentation in AUGMENTATIONS:
        with pytest.raises(ArgumentError, match=sentence):
            kept(source, GRAY, augmentation)
    assert source.reads <= 1
    assert len(kept(Made([(16, 16)] * 31), GRAY, None)) == 31


def test_available_memory():
    assert 1e7 < in_memory.available_memory(torch.device("cpu")) < 1e14


def test_unsupported_options_are_errors():
    source = Made([(16, 16)])
    with pytest.raises(ArgumentError, match=r"cannot do data\.auto_augment 'rand-m9'; leave one of them out"):
        kept(source, GRAY, Augmentation(auto_augment="rand-m9"))
    with pytest.raises(ArgumentError, match=r"kept for evaluation \(augmentation None\), not for training"):
        kept(source, GRAY, None).training_batch([(0, 0)])
    with pytest.raises(ArgumentError, match="on_bad_image must be error or skip, got 'never'"):
        kept(source, GRAY, None, on_bad_image="never")


def test_the_digits():
    train, held_out = open_splits("digits", 0.2, 0)
    images = kept(train, GRAY, Augmentation("resized", crop_scale=0.6))
    batch = images.training_batch([(0, i) for i in range(100)])
    assert batch.labels.tolist() == list(train.labels)[:100]
    expected = torch.stack([GRAY.evaluation(held_out.read(i, 1)) for i in range(50)])
    assert torch.equal(kept(held_out, GRAY, None).evaluation_batch(range(50)).images, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda a: a.crop)
def test_a_gpu_makes_the_same_batches(augmentation):
    source, keys = Made([(29, 27)] * 20), [(2, i) for i in range(20)]
    here = kept(source, GRAY, augmentation).training_batch(keys)
    there = InMemoryImages(source, GRAY, augmentation, 5, "cuda").training_batch(keys)
    torch.testing.assert_close(there.images.cpu(), here.images, atol=1e-5, rtol=1e-5)
