"""Figures: curves, grids, confusion matrices."""

import numpy as np
import pytest
import torch
from PIL import Image

from sasa.draw.annotate import LabelledBoxes, colour_of
from sasa.draw.charts import Panel, draw_confusion, draw_curves, draw_detections_grid, points
from sasa.errors import ArgumentError, SasaError
from sasa.metrics.confusion import count_pairs

CLASSES = ["cat", "Ωmega"]
GRAY = (90, 90, 90)


@pytest.mark.parametrize(("images", "shown"), [(1, 1), (8, 8), (11, 8)])
def test_a_grid(tmp_path, images, shown):
    size = (64, 48)
    truth = LabelledBoxes(torch.tensor([[10.0, 10, 40, 30]]), ["cat"])
    nothing = LabelledBoxes(torch.zeros(0, 4), [], [])
    path = tmp_path / "new" / "detections.png"
    given = [Image.new("RGB", size, GRAY)] * images
    draw_detections_grid(given, [nothing] * images, [truth] * images, CLASSES, path)
    with Image.open(path) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    marks = np.abs(pixels - colour_of("cat", CLASSES)).max(-1) < 12
    assert marks[:, : marks.shape[1] // 2].sum() > 500, "truth on the left"
    assert not marks[:, marks.shape[1] // 2 :].any(), "nothing was found"
    assert shown * 350 < pixels.shape[0] < shown * 600
    assert [each.name for each in path.parent.iterdir()] == ["detections.png"]


def test_a_grid_of_images_with_extreme_shapes(tmp_path):
    given = [Image.new("L", size) for size in ((1, 40), (900, 3), (2000, 1000))]
    some = [LabelledBoxes(torch.tensor([[0.0, 0, 1, 1]]), ["Ωmega"], [0.3])] * 3
    draw_detections_grid(given, some, some, CLASSES, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as drawn:
        assert max(drawn.size) < 4000


def test_a_grid_without_images(tmp_path):
    with pytest.raises(ArgumentError, match="needs at least 1 image, got 0"):
        draw_detections_grid([], [], [], CLASSES, tmp_path / "grid.png")


ROWS = [{"epoch": 1, "loss": 2.0, "map": 0.1}, {"epoch": 2, "loss": 1.0, "map": None}, {"epoch": 3, "loss": 0.5}]


def test_points_of_a_column():
    assert points(ROWS, "loss") == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert points(ROWS, "map", 100) == [(1, 10.0)], "rows without a value are left out"
    assert points(ROWS, "accuracy") == []


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS, [{"epoch": 1, "loss": 0.0}]])
def test_curves(tmp_path, rows):
    panels = [
        Panel("loss", {"sum": points(rows, "loss")}, logarithmic=True),
        Panel("mAP, %", {"mean": points(rows, "map")}),
    ]
    draw_curves(panels, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as drawn:
        assert drawn.size == (1170, 468)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SasaError, match=r"cannot write .*curves\.png: "):
        draw_curves([Panel("loss", {})], tmp_path / "file" / "curves.png")


@pytest.mark.parametrize("classes", [1, 2, 21, 31, 100])
def test_a_confusion_matrix(tmp_path, classes):
    matrix = torch.randint(0, 2000, (classes, classes))
    matrix[0] = 0
    path = tmp_path / "new" / "confusion.png"
    draw_confusion(matrix, [f"class $ {n} of a long name, which goes on" for n in range(classes)], path)
    with Image.open(path) as drawn:
        assert max(drawn.size) < 2500


def test_no_pair_of_thousands_of_classes_is_lost(tmp_path):
    classes = 2500  # three share a cell
    matrix = count_pairs(torch.tensor([7]), torch.tensor([2000]), classes)
    draw_confusion(matrix, [str(n) for n in range(classes)], tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    map_ = pixels[:, : pixels.shape[1] * 4 // 5]  # without the scale of colours
    assert (np.abs(map_ - (8, 48, 107)).max(-1) < 40).any(), "the darkest blue"
