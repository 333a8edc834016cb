"""Settings that do not fit the length of the run, the number of images or their size: a sentence, and no nonsense."""

import csv

import pytest

from runs import tiny
from sasa.data.sampler import EpochBatches
from sasa.errors import SasaError
from sasa.tasks.train import start, train
from sasa.training.run_directory import RunDirectory
from sasa.training.task import changed_settings


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("recipe.label_smoothing", 1.0, r"label_smoothing must be at least 0 and below 1, got 1\.0"),
        ("recipe.label_smoothing", -0.1, r"label_smoothing must be at least 0 and below 1, got -0\.1"),
        ("recipe.momentum", -1.0, r"momentum must be at least 0, got -1\.0"),
        ("recipe.momentum", 1.0, r"momentum must be below 1, got 1\.0"),
        ("recipe.weight_decay", -1.0, r"weight_decay must be at least 0, got -1\.0"),
        ("recipe.warmup_epochs", -1.0, r"warmup_epochs must be at least 0, got -1\.0"),
        ("recipe.learning_rate", float("nan"), r"learning_rate must be at least 0 and below 1e\+38, got nan"),
        ("recipe.clip_grad_norm", float("inf"), r"clip_grad_norm must be at least 0 and below 1e\+38, got inf"),
        ("data.std", [0.0], r"std must be 1e-18 to 1e\+18, got \(0\.0,\)"),
        ("data.crop_fraction", 1e-9, r"crop_fraction must be below 65536 pixels, got 24 / 1e-09"),
        ("data.crop_padding", 24, r"crop_padding \(24\) must be smaller than data\.image_size \(24\)"),
    ],
)
def test_values_out_of_range(tmp_path, key, value, sentence):
    with pytest.raises(SasaError, match=sentence):
        train(tiny((key, value)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("size", "batch_size", "epochs", "warmup", "notes"),
    [
        (64, 32, 10, 5.0, []),
        (70, 32, 10, 1.0, []),  # six of 70 are left out
        (20, 20, 1, 0.5, []),
        (20, 10_000, 1, 0.0, ["batches: reduced from 10000 images (recipe.batch_size) to the 20 that"]),
        (127, 64, 10, 0.0, ["batches: each epoch leaves out 63 of the 127 training images"]),
        (64, 32, 3, 5.0, ["warm-up: reduced from 5 epochs (recipe.warmup_epochs) to half of the run, 1.5 of 3"]),
        (
            1,
            2,
            1,
            1.0,
            ["batches: reduced from 2 images (recipe.batch_size) to the 1 that", "warm-up: reduced from 1 epochs"],
        ),
    ],
)
def test_notes_about_settings_that_do_not_fit(size, batch_size, epochs, warmup, notes):
    recipe = tiny(("recipe.warmup_epochs", warmup), ("recipe.epochs", epochs), ("recipe.batch_size", batch_size)).recipe
    found = changed_settings(recipe, EpochBatches(size, batch_size, epochs, 0))
    assert len(found) == len(notes)
    for sentence, beginning in zip(found, notes, strict=True):
        assert sentence.startswith(beginning)


def test_a_run_of_two_steps(tmp_path, capsys):
    """Every constant is larger than the run: each epoch is one step of all images."""
    large = [("recipe.batch_size", 10_000), ("recipe.warmup_epochs", 5.0), ("run.log_steps", 1000)]
    train(tiny(("data.limit", 20), ("run.checkpoint_steps", 1000), *large), tmp_path / "run")
    printed = capsys.readouterr().err
    assert "batches: reduced from 10000 images (recipe.batch_size) to the 20 that" in printed
    assert "warm-up: reduced from 5 epochs (recipe.warmup_epochs) to half of the run, 1 of 2" in printed
    rows = list(csv.DictReader((tmp_path / "run" / "steps.csv").read_text().splitlines()))
    assert [(row["step"], row["learning_rate"]) for row in rows] == [("1", "0.025"), ("2", "0.05")]
    assert RunDirectory(tmp_path / "run").load_checkpoint()[0]["step"] == 2  # though run.checkpoint_steps is larger


def test_the_micro_batch_is_that_of_the_images():
    assert start(tiny(("data.limit", 20), ("recipe.batch_size", 10_000), ("recipe.accumulate", 4))).task.part == 5


def test_one_value_for_each_channel_is_an_error_that_names_the_micro_batch(tmp_path):
    sentence = (
        r"the smallest feature map is 1 x 1, and micro-batches are of 1 image \(recipe\.batch_size 32, "
        r"recipe\.accumulate 1\)"
    )
    with pytest.raises(SasaError, match=sentence):
        train(tiny(("data.limit", 1)), tmp_path / "run")


def test_a_limit_is_reported():
    sentences = start(tiny(("data.limit", 20))).task.train.description
    assert sentences[-1] == "training: only 20 of these images (data.limit)"
    assert sentences[0].startswith("training: 1438 images")
