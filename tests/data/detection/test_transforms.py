"""Boxes follow their images through resizing, cropping and flips."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sasa.data.detection import DetectionAugmentation, DetectionPreprocessing, Targets
from sasa.errors import ArgumentError

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
STILL = DetectionAugmentation(1.0, 1.0, flip=False)


def targets_of(*boxes, crowd=None):
    crowd = torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool)
    return Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)), crowd)


def drawn(size, box):
    """A black image with a white rectangle that fills the box."""
    image = Image.new("RGB", size)
    x1, y1, x2, y2 = box
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill="white")
    return image


def extent(tensor):
    """The box of the pixels that are at least half white."""
    rows, columns = (np.flatnonzero((tensor[0] >= 0.5).any(side).numpy()) for side in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else None


@st.composite
def images(draw):
    width, height = draw(st.integers(8, 150)), draw(st.integers(8, 150))
    x1, y1 = draw(st.integers(0, width - 6)), draw(st.integers(0, height - 6))
    return (width, height), (x1, y1, draw(st.integers(x1 + 6, width)), draw(st.integers(y1 + 6, height)))


@settings(max_examples=150)
@given(
    images(),
    st.integers(40, 120),
    st.floats(0.5, 2.0),
    st.floats(1, 2),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_box_is_where_its_object_is_after_augmentation(image, image_size, jitter, span, flip, vertical, seed):
    size, box = image
    preprocessing = DetectionPreprocessing(image_size, **PLAIN)
    augmentation = DetectionAugmentation(jitter, jitter * span, flip, vertical)
    tensor, found = augmentation.seeded(preprocessing, drawn(size, box), targets_of(box), seed, 1, 2)
    assert tensor.shape[0] == 3
    assert max(tensor.shape) <= image_size
    white = extent(tensor)
    if len(found):
        np.testing.assert_allclose(found.boxes[0].numpy(), white, atol=1)
    elif white is not None:  # what was left out is the smaller part of the object, or less than a pixel
        factor = jitter * span * image_size / max(size)
        area = (box[2] - box[0]) * (box[3] - box[1]) * factor**2
        sides = white[2] - white[0], white[3] - white[1]
        assert sides[0] * sides[1] <= 0.3 * area + 2 * sum(sides) or min(sides) <= 2


@settings(max_examples=60)
@given(images(), st.integers(40, 120))
def test_a_box_is_where_its_object_is_in_evaluation(image, image_size):
    size, box = image
    preprocessing = DetectionPreprocessing(image_size, **PLAIN)
    tensor = preprocessing.evaluation(drawn(size, box))
    assert max(tensor.shape) == image_size
    assert tuple(tensor.shape[1:]) == preprocessing.fit(size[1], size[0])
    found = preprocessing.fit_targets(targets_of(box), size[1], size[0])
    np.testing.assert_allclose(found.boxes[0].numpy(), extent(tensor), atol=1)


def test_fit_keeps_the_longer_side_and_the_shape():
    preprocessing = DetectionPreprocessing(416)
    assert preprocessing.fit(480, 640) == (312, 416)
    assert preprocessing.fit(100, 50) == (416, 208)
    assert preprocessing.fit(1, 10_000) == (1, 416)


def test_evaluation_normalises():
    preprocessing = DetectionPreprocessing(8, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    tensor = preprocessing.evaluation(Image.new("RGB", (16, 8), (255, 0, 51)))
    torch.testing.assert_close(tensor, torch.tensor([1.0, -1.0, 0.2])[:, None, None].expand(3, 4, 8))
    gray = DetectionPreprocessing(8, (0.0,), (1.0,), channels=1).evaluation(Image.new("L", (8, 8), 51))
    torch.testing.assert_close(gray, torch.full((1, 8, 8), 0.2))


def test_without_jitter_and_flips_training_sees_what_evaluation_sees():
    preprocessing = DetectionPreprocessing(64)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))
    targets = targets_of((3, 4, 30, 20), (0, 0, 53, 37), crowd=[False, True])
    tensor, found = STILL.seeded(preprocessing, image, targets, 0, 0, 0)
    torch.testing.assert_close(tensor, preprocessing.evaluation(image), rtol=0, atol=0)
    expected = preprocessing.fit_targets(targets, 37, 53)
    torch.testing.assert_close(found.boxes, expected.boxes)
    assert (found.labels.tolist(), found.crowd.tolist()) == ([0, 1], [False, True])
    assert type(found.boxes) is torch.Tensor


def test_flips_happen_to_half_of_the_images():
    box = (0, 0, 10, 10)
    preprocessing = DetectionPreprocessing(40, **PLAIN)
    augmentation = DetectionAugmentation(1.0, 1.0, flip=True, vertical_flip=True)
    corners = [
        tuple(
            augmentation.seeded(preprocessing, drawn((40, 40), box), targets_of(box), 0, 0, n)[1].boxes[0, :2].tolist()
        )
        for n in range(200)
    ]
    assert {corner: 30 <= corners.count(corner) <= 70 for corner in set(corners)} == dict.fromkeys(
        [(0, 0), (30, 0), (0, 30), (30, 30)], True
    )


def test_sizes_are_jittered_over_the_whole_range():
    augmentation = DetectionAugmentation(0.5, 2.0, flip=False)
    sides = [
        augmentation.seeded(DetectionPreprocessing(50), Image.new("RGB", (100, 50)), targets_of(), 0, 0, n)[0].shape
        for n in range(300)
    ]
    assert min(width for _, _, width in sides) in (25, 26)
    assert max(width for _, _, width in sides) == 50
    assert max(height for _, height, _ in sides) in (49, 50)
    assert 0.6 <= sum(width == 50 for _, _, width in sides) / 300 <= 0.75  # two thirds have a factor above 1


def test_crops_reach_every_edge():
    rows = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None], (100, 100, 3))
    image = Image.fromarray(rows.copy())
    double = DetectionAugmentation(2.0, 2.0, flip=False)
    crops = [double.seeded(DetectionPreprocessing(50, **PLAIN), image, targets_of(), 0, 0, n)[0] for n in range(400)]
    tops = [round(crop[0, 0, 0].item() * 255) for crop in crops]
    assert (min(tops), max(tops)) == (0, 50)


def cropped(monkeypatch, box, crowd=False):
    """The rest of a box in an image of 20 x 40 (height x width) of which the left half is cropped."""
    monkeypatch.setattr("sasa.data.detection.transforms._random_window", lambda *_: (0, 0, 20, 20))
    double = DetectionAugmentation(2.0, 2.0, flip=False)  # to compensate the size that the image is fitted to
    image = Image.new("RGB", (40, 20))
    return double.seeded(DetectionPreprocessing(20), image, targets_of(box, crowd=[crowd]), 0, 0, 0)[1]


@pytest.mark.parametrize(
    ("box", "left"),
    [
        ((15, 0, 35, 10), [[15, 0, 20, 10]]),  # a quarter remains
        ((16, 0, 35, 10), []),  # less
        ((10, 0, 21, 10), [[10, 0, 20, 10]]),
        ((20, 0, 40, 20), []),
        ((5, 5, 6, 15), [[5, 5, 6, 15]]),
    ],
)
def test_objects_of_which_a_crop_leaves_too_little_are_left_out(monkeypatch, box, left):
    assert cropped(monkeypatch, box).boxes.tolist() == left


def test_any_part_of_a_crowd_is_kept(monkeypatch):
    assert cropped(monkeypatch, (19, 0, 40, 10), crowd=True).boxes.tolist() == [[19, 0, 20, 10]]
    assert len(cropped(monkeypatch, (20, 0, 40, 10), crowd=True)) == 0


def test_boxes_below_a_pixel_are_left_out():
    found = STILL.seeded(
        DetectionPreprocessing(20), Image.new("RGB", (40, 40)), targets_of((0, 0, 1, 9), (0, 0, 2, 9)), 0, 0, 0
    )[1]
    assert found.labels.tolist() == [1]


def test_the_result_depends_on_seed_epoch_and_index_alone():
    preprocessing, augmentation = DetectionPreprocessing(40), DetectionAugmentation(vertical_flip=True, colour=0.5)
    box = (10, 10, 40, 30)

    def bits(*key):
        tensor, found = augmentation.seeded(preprocessing, drawn((60, 50), box), targets_of(box), *key)
        return tensor.numpy().tobytes() + found.boxes.numpy().tobytes()

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = bits(3, 4, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert bits(3, 4, 5) == first
    assert len({bits(*key) for key in ((3, 4, 5), (4, 4, 5), (3, 5, 5), (3, 4, 6))}) == 4


def test_colour_changes_the_image_and_not_the_boxes():
    preprocessing, box = DetectionPreprocessing(40), (10, 10, 30, 30)
    image = Image.new("RGB", (40, 40), (200, 100, 50))
    coloured = DetectionAugmentation(1.0, 1.0, flip=False, colour=0.4)
    plain, strong = (a.seeded(preprocessing, image, targets_of(box), 0, 0, 0) for a in (STILL, coloured))
    assert not torch.allclose(plain[0], strong[0], atol=0.05)
    assert torch.equal(plain[1].boxes, strong[1].boxes)


def test_images_without_boxes():
    augmentation = DetectionAugmentation(1.5, 2.0, vertical_flip=True)
    tensor, found = augmentation.seeded(DetectionPreprocessing(40), Image.new("RGB", (60, 50)), targets_of(), 0, 0, 0)
    assert (tensor.shape, found.boxes.shape, len(found)) == ((3, 40, 40), (0, 4), 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DetectionPreprocessing(0), "image_size must be 1 or more pixels, got 0"),
        (lambda: DetectionPreprocessing(channels=4), r"channels must be 3 \(RGB\) or 1 \(gray\), got 4"),
        (lambda: DetectionPreprocessing(mean=(0.5,)), r"mean \(0\.5,\) and std .* must have 3 values"),
        (lambda: DetectionPreprocessing(std=(1.0, 1.0, 0.0)), r"std must be 1e-18 to 1e\+18, got \(1\.0, 1\.0, 0\.0\)"),
        (lambda: DetectionAugmentation(0.0), r"jitter_min \(0\.0\) must be above 0 and at most jitter_max \(1\.2\)"),
        (lambda: DetectionAugmentation(1.3), r"jitter_min \(1\.3\) must be above 0 and at most jitter_max \(1\.2\)"),
        (lambda: DetectionAugmentation(1.0, float("nan")), r"at most jitter_max \(nan\)"),
        (lambda: DetectionAugmentation(colour=1.5), r"colour must be from 0 to 1, got 1\.5"),
    ],
)
def test_values_outside_their_range(make, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        make()
