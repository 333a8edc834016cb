"""`sasa data`: the report on a data set."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sasa.cli.commands import app
from sasa.data.inspect import inspect, spread
from sasa.errors import DataError


def save_images(root, directory, number, size=(20, 12)):
    (root / directory).mkdir(parents=True)
    for n in range(number):
        Image.new("RGB", size, (n, len(directory), sum(map(ord, directory)) % 256)).save(root / directory / f"{n}.png")


@pytest.fixture
def classes(tmp_path):
    for directory, number in (("train/cat", 5), ("train/dog", 3), ("Val/cat", 2)):
        save_images(tmp_path / "set", directory, number)
    (tmp_path / "set" / "train" / "cat" / "4.png").write_bytes(b"x")
    return tmp_path / "set"


@pytest.fixture
def boxes(tmp_path):
    for split, number in (("train", 4), ("val", 2)):
        save_images(tmp_path / "set", f"images/{split}", number)
        (tmp_path / "set" / "labels" / split).mkdir(parents=True)
        for n in range(number):
            (tmp_path / "set" / "labels" / split / f"{n}.txt").write_text("0 0.5 0.5 0.5 0.5\n1 2 2 2 2\n")
    (tmp_path / "set" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "set"


def run(*arguments):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def check_grid(path):
    with Image.open(path) as grid:
        assert grid.format == "PNG"
        assert np.asarray(grid.convert("L")).std() > 1


def test_class_directories(classes, tmp_path):
    lines = run(classes, "--json", tmp_path / "r.json", "--draw", tmp_path / "grid.png", "--images", 5)
    assert lines[:3] == [
        f"{classes}: classification",
        f"training: 8 images, 2 classes (cat 5, dog 3), from {classes}/train",
        f"held-out: 2 images, 2 classes (cat 2, dog 0), from {classes}/Val",
    ]
    assert "held-out: no images of dog" in lines
    assert "training: all 20 x 12 pixels, 5 of 8 images read" in lines
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["counts"] == {"train": {"cat": 5, "dog": 3}, "held_out": {"cat": 2, "dog": 0}}
    check_grid(tmp_path / "grid.png")


def test_boxes(boxes, tmp_path):
    lines = run(boxes, "--json", tmp_path / "r.json", "--draw", tmp_path / "grid.png")
    assert lines[:2] == [
        f"{boxes}: detection",
        f"training: 4 images, 4 boxes of 2 classes (cat 4, dog 0), from {boxes}",
    ]
    assert "problems: 6" in lines
    assert f"  {boxes}/labels/train/0.txt: annotation 2 of 0.png has numbers that are not fractions" in "\n".join(lines)
    assert len(json.loads((tmp_path / "r.json").read_text())["problems"]) == 6
    check_grid(tmp_path / "grid.png")


def test_damaged_images_are_problems(classes):
    report = inspect(str(classes))
    assert report.problems == [f"{classes}/train/cat/4.png is not an image that can be read"]


def test_unreadable_data_is_an_error(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        inspect(str(tmp_path))


def test_images_are_spread_evenly():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == [0, 1, 2]


def test_nearly_black_images_are_problems(tmp_path):
    for n in range(8):
        (tmp_path / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 4), 4095 - n, np.uint16)).save(tmp_path / "ab"[n % 2] / f"{n}.png")
    assert "6 of 6 training images are nearly black" in inspect(str(tmp_path)).problems[0]


@pytest.mark.parametrize("kind", ["classes", "boxes"])
def test_a_directory_whose_name_is_not_utf8(kind, request, tmp_path):
    renamed = request.getfixturevalue(kind).rename(tmp_path / os.fsdecode(b"\xff"))
    lines = run(renamed, "--json", tmp_path / "r.json", "--draw", tmp_path / "grid.png")
    assert lines[0] == rf"{tmp_path}/\xff: {'detection' if kind == 'boxes' else 'classification'}"
    assert rf"{tmp_path}/\xff" in json.loads((tmp_path / "r.json").read_text())["findings"][0]
