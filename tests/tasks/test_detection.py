"""Detection: it learns, resumes exactly, is the same over processes, and reports problems in the boxes."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from boxes import LEARNS, change, settings, tiny, write_boxes
from processes import kill, run_torchrun, start_python, wait_until
from runs import assert_equal, begin, quiet, state_of
from sasa.errors import DataError, DivergedError, SasaError, UsageError
from sasa.models import create_model
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.detection.evaluation import DetectionScore
from sasa.tasks.train import dry_run, resume, start, train
from sasa.training.run_directory import RunDirectory
from sasa.training.signals import StoppedError

HELD = Path(__file__).parents[1] / "held_command.py"
FIGURES = ["held_out_map", "held_out_map50", "held_out_map75"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("boxes") / "data")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, train(tiny(data, *LEARNS), path)


@pytest.fixture
def own(tmp_path):
    """A data set that a test may change."""
    return write_boxes(tmp_path / "data")


def metrics(path):
    return list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))


def test_it_learns(finished):
    path, summary = finished
    rows = metrics(path)
    losses = ["train_loss", "train_classification", "train_box"]
    assert list(rows[0]) == ["epoch", "step", "learning_rate", *losses, *FIGURES, "images_per_second"]
    assert len(rows) == 12
    for name in losses:
        assert float(rows[-1][name]) < 0.6 * float(rows[0][name])
    assert float(rows[0]["train_loss"]) == pytest.approx(sum(float(rows[0][name]) for name in losses[1:]), abs=1e-5)
    assert summary["held_out_map50"] > 0.1


def test_the_run_directory_is_complete(finished):
    path, summary = finished
    assert json.loads((path / "summary.json").read_text()) == summary
    assert (summary["training_pictures"], summary["held_out_pictures"], summary["steps"]) == (16, 4, 48)
    for name in ("environment.json", "model.safetensors", "config.json", "checkpoint.pt", "steps.csv"):
        assert (path / name).stat().st_size > 0
    for name in ("curves.png", "detections.png"):
        assert (path / name).read_bytes().startswith(b"\x89PNG")
    assert "task: detection\n" in (path / "config.yaml").read_text()
    assert (path / "best" / "config.yaml").read_text() == (path / "config.yaml").read_text()
    assert DetectionConfig.read(str(path / "config.yaml")).data.source == summary["data"]
    assert not [p for p in path.iterdir() if p.name.startswith(".")]


def test_the_saved_network_has_labels_and_preprocessing(finished):
    network = create_model(finished[0])
    assert network.metadata["labels"] == ["red", "blue"]
    assert network.metadata["preprocessing"]["image_size"] == 64


def test_the_best_is_chosen_by_map_then_map50(data, tmp_path, monkeypatch):
    figures = iter([(0.2, 0.5), (0.3, 0.4), (0.3, 0.6), (0.3, 0.6)])

    def scored(task, model):
        map_, map50 = next(figures)
        return DetectionScore(map_, map50, 0.0, 0.0, 0.0, 0.0, {}, {}, 4, 0)

    monkeypatch.setattr("sasa.tasks.detection.task.Detection.score", scored)
    saved = []
    monkeypatch.setattr("sasa.tasks.detection.task.Detection.save", lambda task, directory: saved.append(directory))
    monkeypatch.setattr("sasa.tasks.detection.task.Detection.draw", lambda *args: None)
    (tmp_path / "run" / "best").mkdir(parents=True)
    summary = train(tiny(data, ("recipe.epochs", 4), ("recipe.batch_size", 16)), tmp_path / "run")
    assert [summary[name] for name in ("best_map", "best_map50", "best_epoch")] == [0.3, 0.6, 3]
    assert saved == [*[tmp_path / "run" / "best"] * 3, tmp_path / "run"]  # the fourth is not better


CHANGES = [("recipe.epochs", 3), ("data.colour", 0.2), ("run.checkpoint_steps", 5), ("recipe.learning_rate", 0.01)]


def stop_after(trainer, step, action):
    """Call `action` in the given step of the run."""
    take = trainer.train_step

    def stopping(*args):
        loss = take(*args)
        if trainer.step == step:
            action()
        return loss

    trainer.train_step = stopping


class KilledError(Exception):
    """Like SIGKILL: nothing is saved."""


def killed():
    raise KilledError


def assert_same_run(whole, other):
    assert_equal(state_of(whole), state_of(other))
    for name in ("model.safetensors", "best/model.safetensors", "config.json"):
        assert (whole / name).read_bytes() == (other / name).read_bytes()
    logged = [
        [row["loss"] for row in csv.DictReader((path / "steps.csv").read_text().splitlines())]
        for path in (whole, other)
    ]
    assert logged[0] == logged[1]
    figures = [[{**row, "images_per_second": 0} for row in metrics(path)] for path in (whole, other)]
    assert figures[0] == figures[1]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run with CHANGES, without workers."""
    path = tmp_path_factory.mktemp("whole") / "run"
    train(tiny(data, *CHANGES), path)
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_bit_equal(data, whole, tmp_path, workers):
    """In the middle of the second epoch, two steps after a checkpoint."""
    trainer, directory = begin(tiny(data, *CHANGES, ("data.workers", workers)), tmp_path / "killed")
    stop_after(trainer, 7, killed)
    reports = quiet(trainer, directory)
    with pytest.raises(KilledError):
        trainer.run(directory, reports)
    reports.close()
    assert directory.load_checkpoint()[0]["step"] == 5
    assert resume(tmp_path / "killed")["steps"] == 12
    assert_same_run(whole, tmp_path / "killed")


def test_really_killed_and_resumed_is_bit_equal(data, tmp_path):
    changes = [*CHANGES, ("recipe.epochs", 4)]
    path = tmp_path / "killed"
    process = start_python(HELD, 12, "detect", "train", "--data", data, "--output", path, *settings(*changes))
    wait_until((path / "checkpoint.pt").exists, process)
    kill(process)
    assert RunDirectory(path).load_checkpoint()[0]["step"] <= 12
    resume(path)
    train(DetectionConfig.read(str(path / "config.yaml")), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", path)


def test_sigterm_saves_and_says_how_to_resume(data, whole, tmp_path):
    trainer, directory = begin(tiny(data, *CHANGES), tmp_path / "parts")
    stop_after(trainer, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    reports = quiet(trainer, directory)
    with pytest.raises(
        StoppedError, match="stopped at step 6, saved; resume with: sasa detect train --resume"
    ) as stopped:
        trainer.run(directory, reports)
    reports.close()
    assert stopped.value.exit_status == 143
    resume(tmp_path / "parts")
    assert_same_run(whole, tmp_path / "parts")


def test_two_processes_agree_with_one_that_accumulates(data, finished, tmp_path):
    """They start from trained weights, so that the scores could differ."""
    changes = [("model.name", str(finished[0])), ("model.width", 0.1), ("recipe.learning_rate", 0.002)]
    path = tmp_path / "two"
    out = run_torchrun("-m", "sasa", "detect", "train", "--data", data, "--output", path, *settings(*changes))
    assert out.count("epoch   1") == 1
    values = DetectionConfig.read(str(path / "config.yaml")).to_dict()
    values["recipe"]["accumulate"] = 2
    one = train(DetectionConfig.from_dict(values), tmp_path / "one")
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["processes"], summary["steps"], summary["held_out_pictures"]) == (2, one["steps"], 4)
    a, b = state_of(path), state_of(tmp_path / "one")
    for part in ("model", "average"):
        for name, tensor in a[part].items():
            if not name.endswith("num_batches_tracked"):  # counts parts
                torch.testing.assert_close(tensor, b[part][name], rtol=1e-4, atol=1e-5, msg=f"{part} {name}")
    assert any("running_var" in name for name in a["model"])
    for x, y in zip(a["rows"], b["rows"], strict=True):
        assert x["held_out_map50"] > 0.1
        for name in ("train_loss", "train_classification", "train_box", *FIGURES):
            assert x[name] == pytest.approx(y[name], abs=1e-4), name


def test_each_image_is_scored_once_whatever_the_batches(finished, data):
    """The held-out score of 4 images is the same in batches of 4, and of 1 as 4 parts have."""
    scores = []
    for accumulate in (1, 4):
        trainer = start(tiny(data, *LEARNS, ("recipe.accumulate", accumulate)))
        trainer.load_state(torch.load(finished[0] / "checkpoint.pt", weights_only=True))
        scores.append(trainer.task.score(trainer.model))
    assert scores[0].images == scores[1].images == 4
    assert scores[0].map50 == pytest.approx(scores[1].map50, abs=1e-4)


def tiny_classifier(path, **options):
    options = {"width": 0.05, "num_heads": 2, "kernel_size": 3, "layers": [1, 1, 1, 1], "num_classes": 5, **options}
    torch.manual_seed(7)
    network = create_model("sasa_resnet26", **options)
    network.save_pretrained(path, labels=list("abcde"), preprocessing={})
    return network


def test_a_backbone_from_a_classifier(data, tmp_path):
    theirs = tiny_classifier(tmp_path / "classifier").state_dict()
    task = start(tiny(data, ("recipe.backbone", str(tmp_path / "classifier")))).task
    ours = task.network.backbone.body.state_dict()
    assert set(ours) == {name for name in theirs if not name.startswith("fc.")}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_run_resumes_without_the_weights_its_backbone_started_from(data, tmp_path):
    tiny_classifier(tmp_path / "classifier")
    config = tiny(data, ("recipe.backbone", str(tmp_path / "classifier")), ("run.checkpoint_steps", 2))
    trainer, directory = begin(config, tmp_path / "run")
    stop_after(trainer, 3, killed)
    reports = quiet(trainer, directory)
    with pytest.raises(KilledError):
        trainer.run(directory, reports)
    reports.close()
    shutil.rmtree(tmp_path / "classifier")
    moved = shutil.move(str(data), str(tmp_path / "moved"))
    try:
        assert resume(tmp_path / "run", [("data.source", str(moved))])["steps"] == 8
    finally:
        shutil.move(moved, str(data))


def test_a_backbone_that_does_not_fit_is_an_error(data, finished, tmp_path):
    tiny_classifier(tmp_path / "other", kernel_size=5)
    with pytest.raises(SasaError, match=r"the backbone has kernel_size=3, but its weights come from a network with 5"):
        start(tiny(data, ("recipe.backbone", str(tmp_path / "other"))))
    with pytest.raises(UsageError, match=r"recipe\.backbone .* is not a classifier"):
        start(tiny(data, ("recipe.backbone", str(finished[0]))))
    with pytest.raises(SasaError, match="nowhere"):
        start(tiny(data, ("recipe.backbone", "nowhere")))


def test_the_config_of_the_other_task_is_an_error():
    from sasa.tasks.classification.config import TrainConfig

    with pytest.raises(UsageError, match="this is a config of 'detection', and sasa train is for 'classification'"):
        TrainConfig.from_dict(DetectionConfig().to_dict())
    with pytest.raises(UsageError, match="a config of 'classification', and sasa detect train is for 'detection'"):
        DetectionConfig.from_dict(TrainConfig().to_dict())


ONE = ("model.norm", "group")  # batch norm needs more than one value of a channel


def test_steps_on_empty_images_and_crowds_are_finite(own, tmp_path):
    """The first image has no box, the second a crowd: alone in a batch each, and all parts finite."""
    trainer = start(tiny(own, ("recipe.batch_size", 1), ONE))
    counts = [len(trainer.task.train.targets(index)) for index in range(16)]
    assert counts[0] == 0
    assert trainer.task.train.targets(1).crowd.any()
    parts = trainer.task.batches(0)
    trainer.model.train()
    losses = [trainer.train_step(parts) for _ in range(16)]
    assert all(0 < loss < 100 for loss in losses)
    assert all(p.isfinite().all() for p in trainer.task.network.parameters())


def test_a_step_on_images_without_boxes_only(own):
    """The classification loss has a gradient, and the box loss is zero."""

    def without(document):
        first = document["images"][-1]["id"]
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] == first]

    change(own, "train", without)
    trainer = start(tiny(own))
    trainer.model.train()
    parts = trainer.task.batches(0)
    for _ in range(4):
        trainer.train_step(parts)
    assert trainer.totals.sums["classification"] > 0
    assert trainer.totals.count == 16


def test_images_that_cannot_be_read(own, tmp_path):
    bad = own / "train" / "003.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DataError, match=r"003\.png (cannot be read|is not an image)"):
        train(tiny(own), tmp_path / "error")
    # batches of one: some step has no image to train on
    changes = [("data.on_bad_image", "skip"), ("recipe.batch_size", 1), ("recipe.epochs", 1), ONE]
    summary = train(tiny(own, *changes), tmp_path / "run")
    assert summary["skipped_pictures"] == 1
    assert (tmp_path / "run" / "skipped.txt").read_text() == f"{bad}\n"


def test_a_class_never_seen_is_reported_and_training_continues(own, tmp_path, capsys):
    for split in ("train", "val"):
        change(own, split, lambda document: document["categories"].append({"id": 9, "name": "green"}))
    change(own, "train", lambda document: document["annotations"][0].update(bbox=[5, 5, 0, 8]))
    summary = train(tiny(own, ("recipe.epochs", 1)), tmp_path / "run")
    assert summary["problems_in_annotations"] == 2
    problems = (tmp_path / "run" / "problems.txt").read_text().splitlines()
    assert "class 'green' has no boxes" in "\n".join(problems)
    assert any("annotation 200 of 002.png has no area (width 0, height 8) and is left out" in p for p in problems)
    assert capsys.readouterr().err.startswith("".join(f"annotations: {problem}\n" for problem in problems))
    assert create_model(tmp_path / "run").metadata["labels"] == ["red", "blue", "green"]


def test_many_problems_are_shortened(own, capsys):
    def none(document):
        for number, annotation in enumerate(document["annotations"]):
            annotation["bbox"][2] = annotation["bbox"][2] if number > 8 else 0

    change(own, "train", none)
    start(tiny(own))
    error = capsys.readouterr().err
    assert error.count("has no area") == 5
    assert error.endswith("annotations: and 4 more problems: the finished run lists all of them in problems.txt\n")


def test_held_out_images_without_boxes_are_an_error_before_training(own):
    change(own, "val", lambda document: [a.update(iscrowd=1) for a in document["annotations"]])
    with pytest.raises(DataError, match=r"none of the 4 held-out images has a box \(crowds do not count\)"):
        start(tiny(own))


def test_a_set_without_a_validation_split_is_drawn(data):
    path = data / "annotations" / "instances_train.json"
    trainer = start(tiny(path))
    trainer.model.train()
    assert (len(trainer.task.train), len(trainer.task.held_out)) == (13, 3)
    assert trainer.train_step(trainer.task.batches(0)) > 0


def test_divergence_names_the_images(data, tmp_path):
    config = tiny(data, ("recipe.learning_rate", 1e30), ("recipe.warmup_epochs", 0.0), ("run.checkpoint_steps", 1))
    with pytest.raises(DivergedError, match=r"not finite after step 1 .* on the images .*\.png") as diverged:
        train(config, tmp_path / "run")
    assert diverged.value.exit_status == 4
    assert len(json.loads((tmp_path / "run" / "diverged.json").read_text())["pictures"]) == 4


def test_dry_run_writes_nothing(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = dry_run(tiny(data))
    assert (report["classes"], report["training_pictures"], report["steps"]) == (2, 16, 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("model.num_classes", 7), r"model\.num_classes is 7, but the data has 2 classes"),
        (("model.name", "retinanet_resnet51"), "'retinanet_resnet51' is neither the name of a network"),
        (("recipe.box_weight", -1.0), r"recipe\.box_weight must be at least 0, got -1"),
        (("data.jitter_max", 1e30), r"jitter_min \(0\.8\) must be .* jitter_max \(1e\+30\), and that below 100"),
        (("data.jitter_min", 2.0), r"jitter_min \(2\.0\) must be above 0 and at most jitter_max \(1\.2\)"),
        (("recipe.accumulate", 3), r"recipe\.batch_size \(4\) must be divisible"),
        (("model.anchors", 7), "anchors must be 6 or 9, got 7"),
    ],
)
def test_impossible_settings(data, tmp_path, change, sentence):
    with pytest.raises(SasaError, match=sentence):
        train(tiny(data, change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_classifier_is_not_a_detector(data):
    config = tiny(data)
    config.model = {"name": "sasa_resnet26", "width": 0.05, "num_heads": 2}
    with pytest.raises(UsageError, match=r"sasa_resnet26 is not a detector: detectors are called retinanet_\.\.\."):
        start(config)


def test_a_batch_too_small_for_batch_norm_is_an_error(data, tmp_path):
    with pytest.raises(SasaError, match=r"batch norm needs more than one value .* of 1 image \(recipe\.batch_size 1,"):
        train(tiny(data, ("recipe.batch_size", 1)), tmp_path / "run")


@pytest.mark.parametrize(("size", "jitter"), [(1, 1.2), (64, 0.02)])
def test_boxes_that_are_smaller_than_a_pixel_after_resizing_are_an_error(data, size, jitter):
    changes = ("data.image_size", size), ("data.jitter_min", jitter), ("data.jitter_max", jitter)
    with pytest.raises(DataError, match=rf"no box of the 16 training images .* resized to data.image_size \({size}\)"):
        start(tiny(data, *changes))
