"""Warnings about runs that go wrong: each symptom by its own rows, none for a sound run, and a real run of each."""

import json
import math

import pytest

from runs import tiny
from sasa.tasks.train import train
from sasa.training.settings import RecipeConfig
from sasa.training.symptoms import symptoms

RECIPE = RecipeConfig(epochs=10, warmup_epochs=1, ema_decay=0.9999)
LOSSES = [2.3, 1.9, 1.5, 1.2, 1.0, 0.8, 0.7, 0.65, 0.62, 0.6]


def rows(**changes):
    """The epochs of a sound run, with columns replaced; values are lists or constants."""
    columns = {
        "epoch": range(1, 11),
        "step": range(50, 550, 50),
        "train_loss": LOSSES,
        "train_top1": [1 - loss / 2.5 for loss in LOSSES],
        "held_out_loss": LOSSES,
        "held_out_top1": [1 - loss / 2.4 for loss in LOSSES],
        "last_loss": LOSSES,
        "last_top1": [1 - loss / 2.41 for loss in LOSSES],
    }
    for name, values in changes.items():
        columns[name] = values if isinstance(values, list) else [values] * 10
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def kinds(table):
    """All warnings that a run with these rows gives, epoch by epoch."""
    return {kind for epoch in range(1, len(table) + 1) for kind in symptoms(table[:epoch], RECIPE)}


def test_a_sound_run_is_silent():
    assert kinds(rows()) == set()


@pytest.mark.parametrize(
    ("kind", "changes", "advice"),
    [
        ("overfit", {"train_top1": 0.95, "held_out_top1": 0.5, "last_top1": 0.5}, "compare them with `sasa data`"),
        ("average", {"held_out_top1": 0.5, "last_top1": 0.6, "train_top1": 0.6}, "recipe.batch_norm_momentum to auto"),
        ("constant", {"train_loss": 2.3, "train_top1": 0.1}, "ten times higher or lower (it is 0.025)"),
        ("diverging", {"train_loss": [2.3] * 8 + [9.0, 7.0]}, "recipe.clip_grad_norm=1"),
        ("diverging", {"held_out_loss": 60.0, "last_loss": 60.0}, "the held-out loss is 60 after epoch"),
        ("diverging", {"last_loss": math.nan, "held_out_loss": math.nan}, "the held-out loss is nan"),
    ],
)
def test_each_symptom_alone(kind, changes, advice):
    table = rows(**changes)
    assert kinds(table) == {kind}
    sentences = [symptoms(table[:epoch], RECIPE).get(kind, "") for epoch in range(1, 11)]
    assert any(advice in sentence for sentence in sentences)


def test_an_average_that_lags_is_not_called_overfitting():
    assert kinds(rows(train_top1=0.95, held_out_top1=0.5, last_top1=0.9)) == {"average"}


def test_held_out_accuracy_that_jumps_up_is_not_overfitting():
    jumps = [0.1, 0.18, 0.3, 0.4, 0.5, 0.6, 0.66, 0.7, 0.7, 0.9]
    assert (
        kinds(rows(train_top1=[j + 0.35 for j in jumps[:8]] + [0.9] * 2, held_out_top1=jumps, last_top1=jumps)) == set()
    )


def test_an_average_may_lag_in_the_first_half():
    table = rows(held_out_top1=[0.3] * 5 + [0.9] * 5, last_top1=0.6, train_top1=0.6)
    assert kinds(table) == set()


def test_a_single_held_out_image_is_chance():
    table = rows(train_top1=1.0, held_out_top1=0.5, last_top1=0.5)
    assert symptoms(table, RECIPE, held_out=2) == {}
    assert set(symptoms(table, RECIPE, held_out=4)) == {"overfit"}
    table = rows(held_out_top1=0.5, last_top1=0.6, train_top1=0.6)
    assert symptoms(table, RECIPE, held_out=20) == {}
    assert set(symptoms(table, RECIPE, held_out=40)) == {"average"}


def test_a_run_of_one_epoch_has_no_second_half():
    table = rows(held_out_top1=0.5, last_top1=0.6, train_top1=0.6)[:1]
    assert set(symptoms(table, RecipeConfig(epochs=1, ema_decay=0.9999))) == {"average"}
    assert symptoms(table, RecipeConfig(epochs=2, ema_decay=0.9999)) == {}


def test_a_constant_loss_by_the_share_of_the_largest_class():
    table = rows(train_loss=0.69, train_top1=0.7, held_out_top1=0.7, held_out_loss=0.69, last_loss=0.69, last_top1=0.7)
    assert symptoms(table, RECIPE) == {}  # of a thousand classes
    assert set(symptoms(table, RECIPE, chance=0.5)) == {"constant"}
    assert symptoms(table, RECIPE, chance=0.3) == {}


def test_a_constant_loss_of_epochs_of_one_step():
    table = rows(train_loss=2.3, train_top1=0.1, step=[3 * epoch for epoch in range(1, 11)])
    assert [bool(symptoms(table[:epoch], RECIPE)) for epoch in (1, 5, 9, 10)] == [False, False, False, True]
    assert symptoms([{**row, "step": row["epoch"]} for row in table], RECIPE) == {}
    assert set(symptoms(table[:6], RecipeConfig(epochs=6, warmup_epochs=10))) == set()  # 15 steps
    assert set(symptoms(rows(train_loss=2.3, train_top1=0.1)[:6], RecipeConfig(epochs=6, warmup_epochs=10))) == {
        "constant"
    }


def test_epochs_of_a_few_images_vary():
    noise = [0.78, 0.72, 0.75, 0.73, 0.76, 0.74, 0.77, 0.73, 0.75, 0.72]
    still = {"train_loss": noise, "train_top1": [0.2, 0.4, 0.3, 0.5, 0.3, 0.4, 0.2, 0.4, 0.3, 0.45]}
    table = rows(**still, held_out_loss=0.7, held_out_top1=0.5, last_loss=0.7, last_top1=0.5)
    assert set(symptoms([{**row, "step": 3 * row["epoch"]} for row in table], RECIPE, 10, 0.5)) == {"constant"}


def test_a_smoothed_loss_hardly_falls():
    rising = [0.1 + 0.04 * epoch for epoch in range(10)]
    assert symptoms(rows(train_loss=2.3, train_top1=rising), RECIPE) == {}


def test_a_network_that_has_learned_may_keep_its_loss():
    assert kinds(rows(train_loss=0.01, train_top1=0.99, held_out_top1=0.9, held_out_loss=0.1, last_loss=0.1)) == set()


def test_a_trained_network_may_start_near_zero():
    losses = [0.01] * 5 + [0.02] * 5
    assert kinds(rows(train_loss=losses, train_top1=0.99, held_out_top1=0.9, held_out_loss=0.4, last_loss=0.4)) == set()


def test_automatic_averages_are_not_advised_again():
    table = rows(held_out_top1=0.5, last_top1=0.6, train_top1=0.6)
    sentence = symptoms(table, RecipeConfig(epochs=10))["average"]
    assert "set recipe.ema_decay and recipe.batch_norm_momentum to 0 and 0.1 (they are auto and auto)" in sentence


def test_columns_of_other_tasks_are_enough():
    detector = [{"epoch": e, "step": 50 * e, "train_loss": 2 / e, "held_out_map50": 0.1 * e} for e in range(1, 11)]
    assert kinds(detector) == set()
    assert kinds([{**row, "last_map50": row["held_out_map50"] + 0.04} for row in detector]) == {"average"}
    assert kinds([{**row, "train_loss": 2.0} for row in detector]) == {"constant"}


def test_a_run_warns_once_and_keeps_the_sentence(tmp_path, capsys):
    still = ("recipe.learning_rate", 1e-12), ("recipe.warmup_epochs", 0.0), ("recipe.ema_decay", 0.9)
    config = tiny(*still, ("recipe.epochs", 8), ("recipe.batch_size", 8), ("data.limit", 64))
    summary = train(config, tmp_path / "run")
    assert summary
    assert [sentence for sentence in summary["warnings"] if "the training loss has not fallen" in sentence]
    printed = capsys.readouterr().out
    for sentence in summary["warnings"]:
        assert printed.count(f"warning: {sentence}\n") == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"] == summary["warnings"]
