"""The command line: what it prints, and one sentence and an exit status for each error."""

import json

import pytest
import torch

from command import assert_one_sentence, tiny_settings
from pickles import MakesDirectory
from sasa.models import create_model


def test_train_writes_a_run(run_directory):
    summary = json.loads((run_directory / "summary.json").read_text())
    assert summary["spatial_convolutions"] == 0
    assert (run_directory / "attention.png").exists()


def test_shortcuts_of_train_are_settings(sasa):
    arguments = ["--device", "cpu", "--workers", 3, "--in-memory", "--on-bad-image", "skip"]
    status, out, _ = sasa("train", "--print-config", *arguments)
    assert status == 0
    for line in ("accelerator: cpu", "workers: 3", "in_memory: true", "on_bad_image: skip"):
        assert f"  {line}\n" in out
    assert "in_memory: false" in sasa("train", "--print-config", "--no-in-memory")[1]


def test_flops_paper_models(sasa):
    status, out, _ = sasa("flops", "sasa_resnet50", "--json")
    assert status == 0
    assert json.loads(out)["parameters_M"] == pytest.approx(18.0, abs=0.13)
    status, out, _ = sasa("flops", "resnet26", "--size", 64, "--set", "width=0.5")
    assert status == 0
    assert "multiply-adds" in out
    status, out, _ = sasa("paper", "5")
    assert status == 0
    assert "sinusoid" in out or "absolute" in out
    status, out, _ = sasa("models", "resnet*")
    assert out.split() == ["resnet26", "resnet38", "resnet50"]


def test_bench_of_a_run(sasa, run_directory):
    status, out, err = sasa("bench", "--model", run_directory, "--rounds", 3, "--budget", "1h")
    assert status == 0
    assert "convolutional twin" in out
    assert "measuring: training step, at most about " in err
    written = json.loads((run_directory / "speed.json").read_text())
    assert list(written["passes"]) == ["training step", "inference"]
    assert written["passes"]["inference"]["rounds"] == 3


def test_bench_of_a_network(sasa, tmp_path):
    path = tmp_path / "speed.json"
    status, out, _ = sasa(
        "bench", "--model", "sasa_resnet26", "--size", 32, "--rounds", 1, "--threads", 1, "--json", path
    )
    assert status == 0
    assert "sasa_resnet26 and its convolutional twin, batch size 8" in out
    written = json.loads(path.read_text())
    assert (written["model"], written["environment"]["threads"]) == ("sasa_resnet26", "1")


@pytest.mark.parametrize("arguments", [["--rows", "inference"], ["--profile"], ["--quick"], ["--picture", "a.png"]])
def test_options_of_the_acceptance_table_name_its_place(sasa, arguments):
    assert_one_sentence(sasa("bench", *arguments), 2, arguments[0], "`make bench`")


def test_wrong_arguments_of_bench(sasa, run_directory, tmp_path):
    assert_one_sentence(sasa("bench", "--model", run_directory, "--size", 64), 2, "--size is for random")
    assert_one_sentence(sasa("bench", "--json", tmp_path / "no" / "b.json"), 1, "cannot write", tmp_path / "no")
    assert_one_sentence(sasa("bench", "--budget", "soon"), 2, "--budget takes a time such as 90s", "'soon'")
    assert_one_sentence(sasa("bench", "--json", tmp_path), 1, "cannot write", f"{tmp_path}: it is a directory")
    assert_one_sentence(sasa("bench", "--threads", 10**6), 2, "--threads (1000000) must be at most", "cores")
    assert_one_sentence(sasa("bench", "--model", tmp_path), 1, str(tmp_path))
    assert_one_sentence(sasa("bench", "--model", "resnet50"), 1, "resnet50 has no attention")


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
    ("arguments", "status", "parts"),
    [
        (["--model", "sasa_resnet51"], 1, ["'sasa_resnet51' is neither", "try one of: sasa_resnet50"]),
        (["--model", "retinanet_resnet26"], 2, ["retinanet_resnet26 is a detector: train it with `sasa detect train`"]),
        (["--set", "model.kernel_size=4"], 1, ["kernel_size (4) must be odd", "use 3 or 5"]),
        (["--set", "model.heads=4"], 1, ["'heads' is not an option", "'num_heads'"]),
        (["--set", "recipe.epoch=4"], 2, ["'recipe.epoch' is not a setting", "recipe.epochs"]),
        (["--set", "data.auto_augment=rand-foo"], 1, ["auto_augment 'rand-foo'"]),
        (["--set", "data.auto_augment=rand-m9"], 1, ["cannot do data.auto_augment 'rand-m9'"]),
        (["--set", "data.crop_scale=3"], 1, ["crop_scale must be above 0 and at most 1"]),
        (["--set", "recipe.mixup=-1"], 2, ["recipe.mixup must be at least 0, got -1.0"]),
        (["--set", "run.precision=16-mixed", "--device", "cpu"], 2, ["run.precision '16-mixed'"]),
        (["--batch-size", "31", "--set", "recipe.accumulate=2"], 2, ["recipe.batch_size (31) must be divisible"]),
        (["--set", "data.on_bad_image=replace"], 1, ["on_bad_image must be error or skip"]),
        (["--config", "nothing.yaml"], 2, ["'nothing.yaml' is neither a file nor a recipe"]),
        (["--data", "nowhere"], 3, ["'nowhere' is not a directory"]),
        (["--set", "model.name=3"], 1, ["the name of a network must be text or a path, got 3"]),
        (["--resume", "nowhere"], 1, ["nowhere holds no checkpoint"]),
        (["--device", "tpu"], 2, ["--device must be auto or cpu or cuda or mps, got 'tpu'"]),
        (["--on-bad-image", "ignore"], 2, ["--on-bad-image must be error or skip, got 'ignore'"]),
        (["--resume", "x", "--epochs", "3"], 2, ["--resume continues the run as it was"]),
    ],
)
def test_wrong_arguments_of_train(sasa, tmp_path, monkeypatch, arguments, status, parts):
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(sasa("train", *arguments), status, *parts)
    assert not list(tmp_path.iterdir())


def test_heads_that_do_not_divide_are_an_error():
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
    assert_one_sentence(sasa("train", "--data", "texts"), 3, "texts holds no images")
    for name in "ab":
        for number in range(3):
            path = tmp_path / "bad" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("not an image")
    arguments = ["--config", "digits", "--data", "bad", *tiny_settings("recipe.batch_size=2")]
    assert_one_sentence(sasa("train", *arguments), 3, ".png is not an image that can be read")


def test_an_output_that_cannot_be_written(sasa, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["train", "--epochs", 1, *tiny_settings(), "--output", tmp_path / "file" / "run"]
    assert_one_sentence(sasa(*arguments), 1, "cannot write", "file/run: Not a directory")


def test_directories_without_a_trained_network(sasa, tmp_path, images):
    image = images / "1.png"
    assert_one_sentence(sasa("predict", image, "--model", tmp_path / "x"), 1, "is not the directory of a run")
    assert_one_sentence(sasa("predict", image, "--model", tmp_path), 1, "config.json is missing")
    create_model("sasa_resnet26", width=0.05, num_heads=1).save_pretrained(tmp_path / "untrained")
    assert_one_sentence(sasa("predict", image, "--model", tmp_path / "untrained"), 1, "without labels")


def test_a_pickle_as_weights_is_refused_and_not_run(sasa, tmp_path, images, run_directory):
    (tmp_path / "config.json").write_text((run_directory / "config.json").read_text())
    marker = tmp_path / "marker"
    torch.save(MakesDirectory(marker), tmp_path / "model.safetensors")
    assert_one_sentence(sasa("predict", images, "--model", tmp_path), 1, "is a pickle", "not opened")
    assert not marker.exists()


def test_a_network_on_the_hub(sasa, run_directory, images, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **options: str(run_directory))
    status, out, _ = sasa("predict", images, "--model", "hf:owner/digits")
    assert status == 0
    assert out.count(".png") == 3
    sent = []
    monkeypatch.setattr(
        "sasa.models.publish.upload", lambda *arguments, **_: sent.append(arguments) or "https://address"
    )
    status, out, _ = sasa("push", run_directory, "owner/digits", "--private")
    assert (status, sent) == (0, [(run_directory, "owner/digits", True)])
    assert "published: https://address" in out
