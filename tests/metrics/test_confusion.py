"""Figures of classes from a confusion matrix, and its image."""

import pytest
import torch
from PIL import Image

from sasa.draw.annotate import annotate
from sasa.draw.confusion import draw_confusion
from sasa.errors import ArgumentError
from sasa.metrics.confusion import ClassScore, Confusion, most_confused, per_class

LABELS = ["cats", "dogs", "owls"]
MATRIX = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])


def test_per_class():
    assert per_class(MATRIX, LABELS) == [
        ClassScore("cats", 8, 7, 6 / 8, 6 / 7),
        ClassScore("dogs", 4, 5, 3 / 4, 3 / 5),
        ClassScore("owls", 0, 0, None, None),
    ]


def test_most_confused():
    pairs = [Confusion("cats", "dogs", 2, 0.25), Confusion("dogs", "cats", 1, 0.25)]
    assert most_confused(MATRIX, LABELS, 5) == pairs
    assert most_confused(MATRIX, LABELS, 1) == pairs[:1]
    assert most_confused(torch.eye(3, dtype=torch.int64), LABELS, 5) == []
    assert MATRIX.diagonal().tolist() == [6, 3, 0], "the matrix stays as it is"


def test_a_matrix_of_another_size():
    with pytest.raises(ArgumentError, match=r"confusion is \(3, 3\), but there are 2 labels"):
        per_class(MATRIX, LABELS[:2])


@pytest.mark.parametrize("classes", [1, 2, 21, 31, 100])
def test_a_image_of_it(tmp_path, classes):
    matrix = torch.randint(0, 2000, (classes, classes))
    matrix[0] = 0
    path = tmp_path / "new" / "confusion.png"
    draw_confusion(matrix, [f"class $ {n} of a long name, which goes on" for n in range(classes)], path)
    with Image.open(path) as drawn:
        assert max(drawn.size) < 2500


@pytest.mark.parametrize(("size", "shown"), [((4000, 50), (1024, 13)), ((8, 8), (240, 240)), ((600, 300), (600, 300))])
def test_annotated_images(size, shown):
    image = Image.new("L", size, 200)
    drawn = annotate(image, ["a name that is far too long for one line of the band " * 4, "Ωmega"], [0.9, 0.1])
    assert image.size == size
    assert drawn.width == max(240, shown[0])
    assert drawn.height > shown[1] + 2 * 20
    assert drawn.getpixel((shown[0] // 2, shown[1] // 2)) == (200, 200, 200)
