"""The loop: it learns, resumes exactly, stops on signals after saving, and reports divergence."""

import csv
import json
from itertools import pairwise

import pytest

from runs import tiny, write_digits
from sasa.errors import DivergedError, SasaError, UsageError, compiler_errors
from sasa.tasks.train import dry_run, resume, start, train
from sasa.training.optim import parameter_groups, schedule
from sasa.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, train(tiny(("recipe.epochs", 8)), path)


def test_it_learns(finished):
    path, summary = finished
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert float(rows[-1]["train_loss"]) < 0.8 * float(rows[0]["train_loss"])
    assert summary["held_out_top1"] > 0.3  # ten classes: chance is 0.1
    assert summary["spatial_convolutions"] == 0


def test_the_run_directory_is_complete(finished):
    path, summary = finished
    assert json.loads((path / "summary.json").read_text()) == summary
    for name in ("config.yaml", "environment.json", "model.safetensors", "config.json", "checkpoint.pt"):
        assert (path / name).stat().st_size > 0
    for name in ("curves.png", "predictions.png", "attention.png"):
        assert (path / name).read_bytes().startswith(b"\x89PNG")
    assert not [p for p in path.iterdir() if p.name.startswith(".")]


def test_a_run_is_not_overwritten(finished):
    with pytest.raises(SasaError, match="already holds a run: continue it with --resume"):
        train(tiny(), finished[0])


def test_a_run_in_the_directory_of_its_data(tmp_path):
    source = write_digits(tmp_path / "data", "folder", 60)
    config = tiny(("data.source", str(source)), ("recipe.epochs", 1), ("data.limit", 0))
    with pytest.raises(UsageError, match="data is the directory of the data, and the run would add files to it"):
        train(config, source)
    train(config, source / "runs" / "first")
    assert resume(source / "runs" / "first")["training_pictures"] == 47


def test_a_run_without_a_checkpoint_is_not_said_to_resume(tmp_path):
    (tmp_path / "run").mkdir()
    RunDirectory(tmp_path / "run").create(tiny())
    with pytest.raises(SasaError, match="ended before its first checkpoint: remove it, or name another --output"):
        train(tiny(), tmp_path / "run")


@pytest.mark.parametrize(
    ("rate", "sentence", "step"),
    [(1e30, "the weights are not finite after step 1 ", 0), (1e6, r"the loss became (nan|inf) at step \d", 1)],
)
def test_divergence_names_the_images_and_keeps_the_last_good_checkpoint(tmp_path, rate, sentence, step):
    config = tiny(("recipe.learning_rate", rate), ("recipe.warmup_epochs", 0.0), ("run.checkpoint_steps", 1))
    with pytest.raises(DivergedError, match=sentence) as diverged:
        train(config, tmp_path / "run")
    assert diverged.value.exit_status == 4
    assert "on the images digit " in str(diverged.value)
    assert "and 29 more (all in " in str(diverged.value)
    assert len(json.loads((tmp_path / "run" / "diverged.json").read_text())["pictures"]) == 32
    if step:
        state, _ = RunDirectory(tmp_path / "run").load_checkpoint()
        assert state["step"] >= step
        assert all(t.isfinite().all() for t in state["model"].values())


def test_schedule_rises_and_falls():
    factors = [schedule(step, 100, 10) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert all(a < b for a, b in pairwise(factors[:11]))
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001


@pytest.mark.parametrize("total", [1, 2, 3, 8, 9])
def test_a_warm_up_longer_than_the_run_takes_half_of_it(total):
    factors = [schedule(step, total, 1000) for step in range(total)]
    assert factors == [schedule(step, total, total / 2) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) > 0.6
    assert total < 3 or factors[-1] < max(factors)


def test_weight_decay_spares_norms_biases_and_positions():
    network = start(tiny()).task.network
    names = {id(p): name for name, p in network.named_parameters()}
    decay, rest = ({names[id(p)] for p in g["params"]} for g in parameter_groups(network, 0.1))
    assert decay | rest == set(names.values())
    assert "layer1.0.spatial.qkv.weight" in decay
    assert "fc.weight" in decay
    for name in rest:
        assert (
            name.endswith((".bias", "rel_row", "rel_col", "emb_row", "emb_col", "nu"))
            or "norm" in name
            or (".shortcut.1." in name)
        )
    assert any(name.endswith("rel_row") for name in rest)


def test_dry_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = dry_run(tiny())
    assert report["classes"] == 10
    assert report["seconds_per_step"] > 0
    assert not list(tmp_path.iterdir())


def test_a_wrong_number_of_classes_is_an_error():
    with pytest.raises(UsageError, match=r"model\.num_classes is 7, but the data has 10 classes"):
        start(tiny(("model.num_classes", 7)))


def test_epochs_of_an_earlier_version_have_other_columns(tmp_path):
    RunDirectory(tmp_path).write_metrics([{"epoch": 1, "step": 8}, {"epoch": 2, "step": 16, "last_loss": 0.5}])
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,step,last_loss", "1,8,", "2,16,0.5"]
    RunDirectory(tmp_path).write_metrics([{"epoch": 1, "last_loss": 0.5, "step": 8}, {"epoch": 2, "step": 16}])
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,step,last_loss", "1,8,0.5", "2,16,"]


def test_both_kinds_of_weights_are_scored_while_they_differ(tmp_path, finished):
    path, summary = finished
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    assert summary["weights"] == "averaged"
    assert summary["last_top1"] == float(rows[-1]["last_top1"])
    assert summary["last_loss"] != summary["held_out_loss"] == float(rows[-1]["held_out_loss"])
    plain = train(tiny(("recipe.ema_decay", 0.0), ("recipe.epochs", 1)), tmp_path / "plain")
    assert plain
    assert plain["weights"] == "last step"
    assert not [name for name in plain if name.startswith("last_")]


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        ("InvalidCxxCompiler: No working C++ compiler found", r"run.compile needs a C\+\+ compiler"),
        ("CppCompileError: C++ compile error", "run.compile cannot use .*, because of the space in it"),
    ],
)
def test_errors_of_the_compiler_are_sentences(monkeypatch, tmp_path, raised, sentence):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a b"))
    with pytest.raises(SasaError, match=sentence), compiler_errors("run.compile"):
        raise RuntimeError(raised)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    with pytest.raises(RuntimeError, match="another"), compiler_errors("run.compile"):
        raise RuntimeError("another CppCompileError")
