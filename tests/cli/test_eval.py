"""`sasa eval`: the figures, by class, as JSON and as an image."""

import json

import pytest
from PIL import Image

from command import assert_one_sentence


@pytest.fixture
def class_folders(tmp_path):
    """Ten classes as the digits have them, six images each, one of them broken."""
    for number in range(10):
        for image in range(6):
            path = tmp_path / "data" / str(number) / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 20 * number + image).save(path)
    for image in range(6):  # all of one class, so that some are held out
        (tmp_path / "data" / "7" / f"{image}.png").write_text("no image")
    return tmp_path / "data"


def test_eval_repeats_the_summary(sasa, run_directory):
    status, out, _ = sasa("eval", "--model", run_directory, "--batch-size", 50)
    summary = json.loads((run_directory / "summary.json").read_text())
    assert status == 0
    assert out.split("\n")[0].split() == ["held", "out", "top1", str(summary["held_out_top1"])]
    table = out.split("\n\n")[1].splitlines()
    assert table[0].split() == ["class", "images", "recall", "precision"]
    assert [line.split()[0] for line in table[1:]] == [str(n) for n in range(10)]


def test_json_and_the_matrix(sasa, run_directory, tmp_path):
    arguments = ["--json", tmp_path / "e.json", "--confusion", tmp_path / "c.png"]
    status, out, _ = sasa("eval", "--model", run_directory, *arguments)
    assert status == 0
    assert f"drawn: {tmp_path / 'c.png'}" in out
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads((tmp_path / "e.json").read_text())
    matrix = values["confusion"]
    assert sum(map(sum, matrix)) == values["held_out_pictures"] == 359
    right = sum(matrix[n][n] for n in range(10))
    assert right / 359 == pytest.approx(values["held_out_top1"], abs=1e-6)
    for n, row in enumerate(values["classes"]):
        assert (row["label"], row["pictures"]) == (str(n), sum(matrix[n]))
        assert row["recall"] == pytest.approx(matrix[n][n] / sum(matrix[n]))
    worst = values["most_confused"][0]
    assert matrix[int(worst["truth"])][int(worst["answer"])] == worst["pictures"]
    assert worst["pictures"] == max(v for r, row in enumerate(matrix) for c, v in enumerate(row) if r != c)


def test_many_classes_print_pairs_and_the_table_on_demand(sasa, run_directory, monkeypatch):
    monkeypatch.setattr("sasa.cli.evaluate.FEW", 9)
    out = sasa("eval", "--model", run_directory)[1]
    assert "precision" not in out
    pairs = out.split("\n\n")[1].splitlines()
    assert pairs[0].split() == "true class taken for images of its images".split()
    assert 1 < len(pairs) <= 21
    assert "precision" in sasa("eval", "--model", run_directory, "--per-class")[1]


def test_images_that_cannot_be_read(sasa, run_directory, class_folders, tmp_path):
    arguments = ["eval", "--model", run_directory, "--data", class_folders]
    assert_one_sentence(sasa(*arguments), 3, "7/", "is not an image that can be read")
    status, out, error = sasa(*arguments, "--on-bad-image", "skip", "--json", tmp_path / "e.json")
    assert status == 0
    assert "skipped images" in out
    values = json.loads((tmp_path / "e.json").read_text())
    assert values["skipped_pictures"] == len(values["skipped"]) == error.count("skipped: ")
    assert all("/7/" in name for name in values["skipped"])
    assert values["classes"][7]["recall"] is None
    line = next(line for line in out.splitlines() if line.startswith("7 "))
    assert line.split()[:3] == ["7", "0", "-"]


def test_wrong_arguments_of_eval(sasa, run_directory, tmp_path):
    for option in ("--json", "--confusion"):
        assert_one_sentence(sasa("eval", "--model", run_directory, option, tmp_path), 1, tmp_path, "it is a directory")
    arguments = ["eval", "--model", run_directory]
    assert_one_sentence(sasa(*arguments, "--on-bad-image", "x"), 2, "--on-bad-image must be error or skip, got 'x'")
    assert_one_sentence(sasa(*arguments, "--device", "x"), 2, "--device must be auto or cpu or cuda, got 'x'")
    assert_one_sentence(sasa(*arguments, "--json", tmp_path / "no" / "e.json"), 1, "cannot write", "is not a directory")


def test_a_missing_gpu(sasa, run_directory, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert_one_sentence(sasa("eval", "--model", run_directory, "--device", "cuda"), 1, "torch sees no GPU here")


def test_another_number_of_classes(sasa, run_directory, tmp_path):
    for name in ("one", "two"):
        for number in range(4):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (16, 16)).save(path)
    result = sasa("eval", "--model", run_directory, "--data", tmp_path)
    differences = "only the data has one, two and only the network has 0, 1, 2 and 7 more\n"
    assert_one_sentence(result, 3, f"the data has 2 classes, the network knows 10: {differences}")
