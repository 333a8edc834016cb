"""`sasa predict` and `sasa attend`: images in, tables and images out."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from command import assert_one_sentence
from sasa.cli.inputs import find_images
from sasa.errors import DataError
from sasa.tasks.classification import predictor as module
from sasa.tasks.classification.predictor import Predictor

PNG = b"\x89PNG"


def test_predict_table_json_and_drawing(sasa, run_directory, images, tmp_path):
    arguments = ["predict", "--model", run_directory, images, "--top", 2]
    status, out, _ = sasa(*arguments, "--json", tmp_path / "p.json", "--draw", tmp_path / "p.png")
    assert status == 0
    written = json.loads((tmp_path / "p.json").read_text())
    assert [Path(p["name"]).name for p in written] == ["0.png", "1.png", "2.png"]
    assert all(len(p["labels"]) == 2 and p["shares"][0] >= p["shares"][1] for p in written)
    heading, *lines, drawn = out.splitlines()
    assert heading.split() == ["image", "top", "1", "top", "2"]
    assert [line.rsplit(maxsplit=4)[0] for line in lines] == [str(images / f"{n}.png") for n in range(3)]
    assert lines[0].rsplit(maxsplit=4)[1:3] == [written[0]["labels"][0], f"{written[0]['shares'][0]:.1%}"]
    assert drawn == f"drawn: {tmp_path / 'p.png'}"
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)
    status, pattern, _ = sasa("predict", "--model", run_directory, images / "[01].png", "--top", 2)
    assert status == 0
    assert pattern.splitlines() == out.splitlines()[:3]


def test_batches_agree_with_single_images(run_directory, images, monkeypatch):
    predictor = Predictor.load(run_directory)
    readable = [(path.name, predictor.read(path)) for path in sorted(images.glob("*.png"))]
    together = predictor.predict(readable, 10)
    monkeypatch.setattr(Predictor, "BATCH", 1)
    for one, other in zip(together, predictor.predict(readable, 10), strict=True):
        assert (one.name, one.labels) == (other.name, other.labels)
        assert one.shares == pytest.approx(other.shares, abs=1e-5)


def test_at_most_a_batch_of_images_is_read_ahead(run_directory, monkeypatch):
    monkeypatch.setattr(Predictor, "BATCH", 4)
    read = []

    def images():
        for number in range(12):
            read.append(number)
            yield str(number), Image.new("L", (16, 16))

    stream = Predictor.load(run_directory).stream(images())
    next(stream)
    assert len(read) == 4


def test_a_grid_has_a_limit(sasa, run_directory, images, tmp_path, monkeypatch):
    monkeypatch.setattr("sasa.cli.drawing.MOST_IN_GRID", 2)
    out = sasa("predict", "--model", run_directory, images, "--draw", tmp_path / "p.png")[1]
    assert out.splitlines()[-1] == f"drawn: {tmp_path / 'p.png'} (the first 2 of 3 images)"


def test_a_directory_of_annotated_images(sasa, run_directory, tmp_path):
    """Numbers are appended to existing names, and no input is overwritten, not even in its own directory."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.new("L", (3000, 30), 40).save(tmp_path / folder / "x.png")
    before = (tmp_path / "a" / "x.png").read_bytes()
    status, out, _ = sasa("predict", tmp_path / "a", tmp_path / "b", "--model", run_directory, "--draw", tmp_path / "a")
    assert status == 0
    assert out.splitlines()[-1] == f"drawn: 2 images in {tmp_path / 'a'}"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x-2.png", "x-3.png", "x.png"]
    assert (tmp_path / "a" / "x.png").read_bytes() == before
    with Image.open(tmp_path / "a" / "x-2.png") as drawn:
        assert drawn.mode == "RGB"
        assert drawn.width == 1024
        assert drawn.height > 10 + 5 * 20  # the image, and a line for each of five classes


def test_drawings_that_cannot_be_written(sasa, run_directory, images, tmp_path):
    image = tmp_path / "0.png"
    shutil.copy(images / "0.png", image)
    arguments = ["predict", image, "--model", run_directory, "--draw"]
    assert_one_sentence(sasa(*arguments, image), 2, f"--draw {image} is one of the images")
    (tmp_path / "file").write_text("")
    assert_one_sentence(sasa(*arguments, tmp_path / "file"), 1, "cannot write", tmp_path / "file")


def test_arguments_without_an_image(sasa, run_directory, tmp_path):
    (tmp_path / "x.png").write_text("text")
    assert_one_sentence(sasa("predict", tmp_path / "x.png", "--model", run_directory), 3, "x.png is not an image")
    assert_one_sentence(sasa("predict", tmp_path / "y.png", "--model", run_directory), 3, "matches nothing")
    (tmp_path / "sub").mkdir()
    assert_one_sentence(sasa("predict", tmp_path / "sub", "--model", run_directory), 3, "sub holds no images")


def test_names_that_no_terminal_can_show(sasa, run_directory, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\n.png")
    Image.new("L", (16, 16)).save(path)
    status, out, _ = sasa("predict", tmp_path, "--model", run_directory)
    assert status == 0
    assert out.splitlines()[1].startswith(rf"{tmp_path}/\xff\n.png ")
    path.write_text("text")
    sentence = rf"{tmp_path}/\xff\n.png is not an image"
    assert_one_sentence(sasa("predict", tmp_path, "--model", run_directory), 3, sentence)


def test_unreadable_images_are_listed_at_the_end(sasa, run_directory, images, tmp_path):
    (tmp_path / "bad.png").write_text("text")
    arguments = ["predict", tmp_path, images, "--model", run_directory, "--on-bad-image", "skip"]
    status, out, error = sasa(*arguments, "--json", tmp_path / "p.json", "--draw", tmp_path / "p.png")
    assert status == 0
    assert error == f"skipped: {tmp_path / 'bad.png'} is not an image that can be read\n"
    assert len(json.loads((tmp_path / "p.json").read_text())) == out.count("%") / 5 == 3
    (tmp_path / "p.png").unlink()
    status, _, error = sasa("predict", tmp_path, "--model", run_directory, "--on-bad-image", "skip")
    assert status == 3
    assert error.endswith("sasa: none of the 1 images can be read\n")


def test_json_that_cannot_be_written(sasa, run_directory, images, tmp_path):
    arguments = ["predict", images, "--model", run_directory, "--json", tmp_path / "no" / "p.json"]
    assert_one_sentence(sasa(*arguments), 1, "cannot write", "p.json")


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/b/2.jpg", "a/b/c/3.png", "a/b/notes.txt", "a/.hidden.png", "odd[1].png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def found(*arguments):
        return [str(path) for path in find_images(list(arguments))]

    assert found("a/**/*.png") == ["a/1.png", "a/b/c/3.png"]
    assert found(f"{tmp_path}/a/*/*") == [f"{tmp_path}/a/b/2.jpg"]
    assert found("a", "a/1.png", "*/1.png") == ["a/1.png", "a/b/2.jpg", "a/b/c/3.png"], "each once"
    assert found("odd[1].png") == ["odd[1].png"], "a file of that name comes before the pattern"
    for word, sentence in {"a/b/*.txt": "no image", "a/*.tif": "nothing", "no": "nothing"}.items():
        with pytest.raises(DataError, match=f"{re.escape(word)} .*matches {sentence}"):
            found(word)


def test_attend_draws_chosen_pixels(sasa, run_directory, images, tmp_path):
    arguments = ["attend", "--model", run_directory, images / "1.png", "--output", tmp_path / "a.png"]
    status, out, _ = sasa(*arguments, "--pixel", "3,4", "--pixel", "10,12", "--layer", "layer2.0", "--head", 2)
    assert status == 0
    assert "layer layer2.0.spatial, drawn:" in out
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert_one_sentence(sasa(*arguments, "--layer", "layer9"), 1, "no attention layer 'layer9'", "layer1.0.spatial")
    assert_one_sentence(sasa(*arguments, "--pixel", "3"), 1, "ROW,COLUMN", "'3'")
    assert_one_sentence(sasa(*arguments, "--pixel", "300,1"), 1, "pixel 300,1 is outside the image of 16 x 21")
    assert_one_sentence(sasa(*arguments, "--head", 3), 1, "layer1.0.spatial has 2 heads, 1 to 2; there is no head 3")
    assert_one_sentence(sasa(*arguments, "--layer", "all", "--head", 0), 1, "there is no head 0")
    assert_one_sentence(sasa(*arguments[:-1], images / "1.png"), 2, "is one of the images")


def test_figures_are_written_in_the_format_of_their_name(sasa, run_directory, images, tmp_path):
    arguments = ["attend", "--model", run_directory, images / "1.png", "--output"]
    for name, start in {"a.jpg": b"\xff\xd8\xff", "a.SVG": b"<?xml", "a": PNG}.items():
        assert sasa(*arguments, tmp_path / name)[0] == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert_one_sentence(sasa(*arguments, tmp_path / "a.gif"), 1, "a.gif: the name of a figure must end in .png, .jpg")
    assert not (tmp_path / "a.gif").exists()


def test_attend_draws_many_layers(sasa, run_directory, images, tmp_path, monkeypatch):
    arguments = ["attend", "--model", run_directory, images / "1.png", "--output", tmp_path / "a.png"]
    drawn = []
    real = module.draw_layers
    monkeypatch.setattr(
        module, "draw_layers", lambda image, views, *rest: drawn.append(views) or real(image, views, *rest)
    )
    status, out, _ = sasa(*arguments, "--layer", "all")
    assert (status, out) == (0, f"4 layers, drawn: {tmp_path / 'a.png'}\n")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert [view.name for view in drawn[0]] == ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    assert [title for title, _ in drawn[0][0].windows] == ["mean of heads"]
    heads = ["--head", 2, "--head", 1, "--pixel", "0,2"]
    assert sasa(*arguments, "--layer", "layer1.0", "--layer", "layer3.0", *heads)[0] == 0
    assert [title for title, _ in drawn[1][1].windows] == ["head 2", "head 1"]
    assert drawn[1][0].pixel == (0, 0)
    two = ["--pixel", "1,2", "--pixel", "3,4"]
    assert_one_sentence(sasa(*arguments, "--layer", "all", *two), 2, "many layers are drawn for one pixel, got 2")


def test_attend_lists_layers(sasa, run_directory):
    status, out, _ = sasa("attend", "--list", "--model", run_directory)
    assert status == 0
    heading, first, *others = out.splitlines()
    assert heading.split() == ["layer", "map", "window", "heads"]
    assert first.split() == "layer1.0.spatial 6 x 6 3 x 3 2".split()
    assert len(others) == 3
    assert_one_sentence(sasa("attend", "--model", run_directory), 2, "name an image to look at, or --list")
