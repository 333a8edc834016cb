"""The command line as a person meets it: what it prints, and one sentence and a status where something is wrong."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from sasa.cli.main import main
from sasa.models import create_model

TINY = (
    "model.width=0.05 model.num_heads=2 model.kernel_size=3 model.layers=[1,1,1,1] model.stem_block=4 data.limit=128"
).split()


def tiny_settings(*more):
    return [word for setting in (*TINY, *more) for word in ("--set", setting)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run of the command itself."""
    path = tmp_path_factory.mktemp("runs") / "run"
    words = ["sasa", "train", "--epochs", "1", "--batch-size", "32", "--output", str(path), *tiny_settings()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.new("L", (20 + number, 16), 80 * number).save(root / f"{number}.png")
    return root


def assert_one_sentence(result, status, *words):
    got, _, error = result
    assert got == status
    assert error.startswith("sasa: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for word in words:
        assert str(word) in error


def test_train_writes_a_run(run_folder):
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["spatial_convolutions"] == 0
    assert (run_folder / "attention.png").exists()


def test_eval_repeats_the_summary(sasa, run_folder):
    status, out, _ = sasa("eval", "--model", run_folder)
    summary = json.loads((run_folder / "summary.json").read_text())
    assert status == 0
    assert out.split("\n")[0].split() == ["held", "out", "top1", str(summary["held_out_top1"])]


def test_predict_table_json_and_drawing(sasa, run_folder, pictures, tmp_path):
    words = ["predict", "--model", run_folder, pictures, "--top", 2]
    status, out, _ = sasa(*words, "--json", tmp_path / "p.json", "--draw", tmp_path / "p.png")
    assert status == 0
    written = json.loads((tmp_path / "p.json").read_text())
    assert [Path(p["name"]).name for p in written] == ["0.png", "1.png", "2.png"]
    assert all(len(p["labels"]) == 2 and p["shares"][0] >= p["shares"][1] for p in written)
    assert out.count(".png: ") == 3
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    status, pattern, _ = sasa("predict", "--model", run_folder, pictures / "[01].png", "--top", 2)
    assert status == 0
    assert pattern.splitlines() == out.splitlines()[:2]


def test_attend_draws_chosen_pixels(sasa, run_folder, pictures, tmp_path):
    words = ["attend", "--model", run_folder, pictures / "1.png", "--output", tmp_path / "a.png"]
    status, out, _ = sasa(*words, "--pixel", "3,4", "--pixel", "10,12", "--layer", "layer2.0")
    assert status == 0
    assert "layer layer2.0.spatial, drawn:" in out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert_one_sentence(sasa(*words, "--layer", "layer9"), 1, "no attention layer 'layer9'", "layer1.0.spatial")
    assert_one_sentence(sasa(*words, "--pixel", "3"), 1, "ROW,COLUMN", "'3'")
    assert_one_sentence(sasa(*words, "--pixel", "300,1"), 1, "pixel 300,1 is outside the picture of 16 x 21")


def test_flops_paper_models(sasa):
    status, out, _ = sasa("flops", "sasa_resnet50", "--json")
    assert status == 0
    assert json.loads(out)["parameters_M"] == pytest.approx(18.0, abs=0.13)
    status, out, _ = sasa("flops", "resnet26", "--size", 64, "--set", "width=0.5")
    assert status == 0
    assert "macs G" in out
    status, out, _ = sasa("paper", "5")
    assert status == 0
    assert "sinusoid" in out or "absolute" in out
    status, out, _ = sasa("models", "resnet*")
    assert out.split() == ["resnet26", "resnet38", "resnet50"]


def test_bench_writes_json_and_a_picture(sasa, tmp_path):
    words = ["bench", "--quick", "--rows", "agreement,cores", "--rounds", 1]
    status, out, err = sasa(*words, "--json", tmp_path / "b.json", "--picture", tmp_path / "b.png")
    assert status == 0
    assert "QUICK" in out
    assert "all attention cores / the 3 x 3 convolutions, forward" in out
    assert err.splitlines()[-1] == "measuring: agreement"
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["cores/cores", "agreement/ours"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_bench_of_a_run(sasa, run_folder):
    status, out, _ = sasa("bench", "--model", run_folder, "--rounds", 3)
    assert status == 0
    assert "convolutional twin" in out
    written = json.loads((run_folder / "speed.json").read_text())
    assert set(written["passes"]) == {"training step", "inference"}
    assert written["passes"]["inference"]["rounds"] == 3


def test_wrong_arguments_of_bench(sasa, run_folder, tmp_path):
    assert_one_sentence(sasa("bench", "--rows", "speed"), 2, "--rows 'speed' matches no row", "agreement")
    assert_one_sentence(sasa("bench", "--model", run_folder, "--quick"), 2, "goes with --rounds and --threads only")
    assert_one_sentence(sasa("bench", "--json", tmp_path / "no" / "b.json"), 2, "there is no folder", tmp_path / "no")
    assert_one_sentence(sasa("bench", "--model", tmp_path), 1, "is no run: its config.yaml")


def test_print_config_and_dry_run(sasa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = sasa("train", "--print-config", "--epochs", 3)
    assert status == 0
    assert "epochs: 3" in out
    status, out, _ = sasa("train", "--dry-run", *tiny_settings())
    assert status == 0
    assert "seconds per step" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "status", "parts"),
    [
        (["--model", "sasa_resnet51"], 1, ["'sasa_resnet51' is neither", "near: sasa_resnet50"]),
        (["--set", "model.kernel_size=4"], 1, ["kernel_size (4) must be odd", "use 3 or 5"]),
        (["--set", "model.heads=4"], 1, ["'heads' is no option", "'num_heads'"]),
        (["--set", "recipe.epoch=4"], 2, ["'recipe.epoch' is no setting", "recipe.epochs"]),
        (["--config", "nothing.yaml"], 2, ["'nothing.yaml' is no file and no recipe"]),
        (["--data", "nowhere"], 3, ["'nowhere' is no folder"]),
        (["--resume", "nowhere"], 1, ["nowhere holds no checkpoint"]),
        (["--resume", "x", "--epochs", "3"], 2, ["--resume goes on with the run as it was"]),
    ],
)
def test_wrong_arguments_of_train(sasa, tmp_path, monkeypatch, words, status, parts):
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(sasa("train", *words), status, *parts)
    assert not list(tmp_path.iterdir())


def test_heads_that_do_not_divide_are_a_sentence():
    # Networks round their widths to the heads; the layer does not.
    from sasa import LocalAttention2d

    with pytest.raises(ValueError, match=r"out_channels \(10\) must be divisible by num_heads \(4\)"):
        LocalAttention2d(8, 10, num_heads=4)


def test_wrong_data_of_train(sasa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "x.txt").write_text("x")
    assert_one_sentence(sasa("train", "--data", "empty"), 3, "empty is empty")
    assert_one_sentence(sasa("train", "--data", "texts"), 3, "texts holds no pictures")
    for name in "ab":
        for number in range(3):
            path = tmp_path / "bad" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("this is no picture")
    words = ["--config", "digits", "--data", "bad", *tiny_settings("recipe.batch_size=2")]
    assert_one_sentence(sasa("train", *words), 3, ".png is not a picture that can be read")


def test_an_output_that_cannot_be_written(sasa, tmp_path):
    (tmp_path / "file").write_text("")
    words = ["train", "--epochs", 1, *tiny_settings(), "--output", tmp_path / "file" / "run"]
    assert_one_sentence(sasa(*words), 1, "cannot write the run's folder", "file/run")


def test_models_that_are_none(sasa, tmp_path, pictures):
    picture = pictures / "1.png"
    assert_one_sentence(sasa("predict", picture, "--model", tmp_path / "x"), 1, "is no folder of a run")
    assert_one_sentence(sasa("predict", picture, "--model", tmp_path), 1, "config.json is missing")
    create_model("sasa_resnet26", width=0.05, num_heads=1).save_pretrained(tmp_path / "untrained")
    assert_one_sentence(sasa("predict", picture, "--model", tmp_path / "untrained"), 1, "without labels")


def test_a_pickle_as_weights_is_refused_and_not_run(sasa, tmp_path, pictures, run_folder):
    (tmp_path / "config.json").write_text((run_folder / "config.json").read_text())
    marker = tmp_path / "marker"
    torch.save(Evil(str(marker)), tmp_path / "model.safetensors")
    assert_one_sentence(sasa("predict", pictures, "--model", tmp_path), 1, "is a pickle", "not opened")
    assert not marker.exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_another_number_of_classes(sasa, run_folder, tmp_path):
    for name in ("one", "two"):
        for number in range(4):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (16, 16)).save(path)
    result = sasa("eval", "--model", run_folder, "--data", tmp_path)
    assert_one_sentence(result, 3, "the data has 2 classes (one, two", "the network knows 10 (0, 1, 2")


def test_pictures_that_are_none(sasa, run_folder, tmp_path):
    (tmp_path / "x.png").write_text("text")
    assert_one_sentence(sasa("predict", tmp_path / "x.png", "--model", run_folder), 3, "x.png is not a picture")
    assert_one_sentence(sasa("predict", tmp_path / "y.png", "--model", run_folder), 3, "matches nothing")
    (tmp_path / "sub").mkdir()
    assert_one_sentence(sasa("predict", tmp_path / "sub", "--model", run_folder), 3, "sub holds no pictures")


def test_json_that_cannot_be_written(sasa, run_folder, pictures, tmp_path):
    words = ["predict", pictures, "--model", run_folder, "--json", tmp_path / "no" / "p.json"]
    assert_one_sentence(sasa(*words), 1, "cannot write", "p.json")
