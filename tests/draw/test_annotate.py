"""Classes and boxes drawn on images."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sasa.draw.annotate import LabelledBoxes, annotate, colour_of, draw_boxes
from sasa.errors import ArgumentError

CLASSES = ["cat", "dog", "a class with a name that is far too long to be written on one line of any image", "Ωmega"]
GRAY = (90, 90, 90)


def draw(size, boxes, labels, scores=None, classes=CLASSES):
    """Pixels (H, W, 3) of a gray image with boxes."""
    image = Image.new("RGB", size, GRAY)
    found = LabelledBoxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels, scores)
    drawn = draw_boxes(image, found, classes)
    assert drawn.size == size
    assert image.getcolors() == [(size[0] * size[1], GRAY)], "the original is unchanged"
    return np.asarray(drawn)


def changed(pixels):
    return (pixels != GRAY).any(-1)


def test_a_box_and_its_label():
    pixels = draw((300, 200), [[50, 60, 150, 120]], ["dog"], [0.5])
    colour = colour_of("dog", CLASSES)
    for row, column in ((60, 50), (60, 149), (119, 50), (119, 149), (90, 50), (90, 149), (119, 100), (60, 100)):
        assert tuple(pixels[row, column]) == colour, (row, column)
    marks = changed(pixels)
    assert not marks[61:119, 51:149].any(), "nothing inside"
    outside = marks.copy()
    outside[60:120, 50:150] = False
    rows, columns = np.nonzero(outside)
    assert rows.max() == 59, "the label touches the box"
    assert rows.min() >= 40
    assert columns.min() == 50
    assert columns.max() < 150
    strip = pixels[rows.min() : 60, 50 : columns.max() + 1].reshape(-1, 3)
    assert (strip == colour).all(-1).mean() > 0.5
    assert strip.sum(-1).min() < 60, "black letters"


def test_the_label_stays_inside():
    for box in ([250, 0, 300, 40], [0, 0, 300, 200], [290, 195, 299, 199], [-50, -50, 20, 20]):
        marks = changed(draw((300, 200), [box], ["cat"], [1.0]))
        assert marks.sum() > 300, "a label too"
    low = draw((300, 200), [[280, 100, 299, 150]], ["cat"], [0.25])
    high = draw((300, 200), [[100, 100, 119, 150]], ["cat"], [0.25])
    assert np.abs(changed(low).sum() - changed(high).sum()) < 40, "moved to the left, not cut off"


def test_a_long_label_is_shortened():
    pixels = draw((640, 480), [[100, 100, 200, 200]], [CLASSES[2]], [0.87])
    marks = changed(pixels)
    assert 100 < np.nonzero(marks[:99].any(0))[0].max() - 100 < 320
    assert changed(draw((64, 64), [[5, 30, 20, 40]], [CLASSES[2]], [0.87])).any()


def test_the_best_is_on_top():
    boxes, colours = [[50, 50, 150, 150]] * 2, [colour_of(name, CLASSES) for name in ("cat", "dog")]
    for scores, best in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
        assert tuple(draw((300, 200), boxes, ["cat", "dog"], scores)[149, 100]) == colours[best]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 200), (7, 7), (20, 20), (3000, 40), (2000, 1500)])
@pytest.mark.parametrize("scores", [None, [0.1, 0.6, 1.0]])
def test_any_size(size, scores):
    width, height = size
    boxes = [[0, 0, width, height], [width / 3, height / 3, width / 2, height / 2], [-9, -9, 2 * width, 2 * height]]
    pixels = draw(size, boxes, ["cat", "dog", "Ωmega"], scores)
    assert changed(pixels)[0].any()
    assert changed(pixels)[:, -1].any()


def test_the_line_grows_with_the_image_but_not_beyond_the_box():
    marks = changed(draw((2400, 2400), [[500, 1000, 1500, 2000]], ["cat"]))
    assert marks[1500, 500:1500].sum() == 20, "two lines of 10 pixels"
    thin = changed(draw((2400, 2400), [[1000, 1000, 1004, 2000]], ["cat"]))[1001:]
    assert np.nonzero(thin.any(0))[0].tolist() == [1000, 1001, 1002, 1003]
    assert np.nonzero(thin.any(1))[0].max() == 998


@pytest.mark.parametrize(
    "box",
    [[300, 0, 310, 10], [-20, 5, -10, 9], [-20, 5, 0, 9], [9, 9, 5, 20], [math.nan, 0, 9, 9], [0, 0, math.inf, 9]],
)
def test_boxes_outside_or_not_finite_are_not_drawn(box):
    assert not changed(draw((300, 200), [box], ["cat"], [0.9])).any()


def test_a_box_without_area_is_a_line():
    marks = changed(draw((300, 200), [[100, 100, 100, 150]], ["cat"]))
    assert marks[101:].sum() == 49
    assert marks[101:150, 100].all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_no_boxes_and_other_image_modes(mode):
    image = Image.new(mode, (30, 20))
    drawn = draw_boxes(image, LabelledBoxes(torch.zeros(0, 4), []), CLASSES)
    assert (drawn.mode, drawn.size, image.mode) == ("RGB", (30, 20), mode)
    assert drawn.tobytes() == image.convert("RGB").tobytes()


def test_colours_of_classes():
    names = [str(place) for place in range(80)]
    colours = [colour_of(name, names) for name in names]
    assert len(set(colours[:21])) == 21
    assert min(math.dist(*pair) for pair in itertools.combinations(colours[:7], 2)) > 60
    assert colour_of("3", names[:5]) == colours[3], "independent of the classes after it"


@pytest.mark.parametrize(
    ("boxes", "scores", "sentence"),
    [
        (torch.zeros(2, 4), None, r"boxes are \(2, 4\), but there are 1 labels"),
        (torch.zeros(4), None, r"boxes are \(4,\), but there are 1 labels"),
        (torch.zeros(1, 4), [0.5, 0.5], "there are 2 scores, but 1 labels"),
    ],
)
def test_numbers_of_boxes_labels_and_scores_must_agree(boxes, scores, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        LabelledBoxes(boxes, ["cat"], scores)


def test_a_label_must_be_a_class():
    with pytest.raises(ArgumentError, match="the label 'owl' is not one of the 4 classes"):
        draw([9, 9], [[0, 0, 5, 5]], ["owl"])


@pytest.mark.parametrize(("size", "shown"), [((4000, 50), (1024, 13)), ((8, 8), (240, 240)), ((600, 300), (600, 300))])
def test_classes_below_an_image(size, shown):
    image = Image.new("L", size, 200)
    drawn = annotate(image, ["a name that is far too long for one line of the band " * 4, "Ωmega"], [0.9, 0.1])
    assert image.size == size
    assert drawn.width == max(240, shown[0])
    assert drawn.height > shown[1] + 2 * 20
    assert drawn.getpixel((shown[0] // 2, shown[1] // 2)) == (200, 200, 200)
