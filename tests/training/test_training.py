"""The loop: it learns, resumes exactly, stops on signals after saving, and says when it diverges."""

import csv
import json
import os
import signal
from itertools import pairwise

import pytest
import torch

from sasa.errors import DivergedError, SasaError, UsageError
from sasa.training.config import resolve
from sasa.training.loop import Trainer
from sasa.training.optim import parameter_groups, schedule
from sasa.training.progress import clock
from sasa.training.run_folder import RunFolder
from sasa.training.signals import StoppedError, StopRequest
from sasa.training.train import dry_run, resume, train

TINY = [
    ("model.width", 0.05),
    ("model.num_heads", 2),
    ("model.kernel_size", 3),
    ("model.layers", [1, 1, 1, 1]),
    ("model.stem_block", 4),
    ("data.limit", 256),
    ("recipe.epochs", 2),
    ("recipe.batch_size", 32),
]


def tiny(*changes):
    return resolve("digits", [*TINY, *changes])


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


def test_the_run_folder_is_complete(finished):
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


def run_until(path, stop_at, config):
    """Train, and send this process SIGTERM in step `stop_at`."""
    trainer = Trainer.start(config)
    folder = RunFolder(path)
    folder.create(config)
    step = trainer.train_step

    def stopping(*args):
        loss = step(*args)
        if trainer.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    trainer.train_step = stopping
    with pytest.raises(StoppedError, match=f"stopped at step {stop_at}, saved; go on with") as stopped:
        trainer.run(folder, Quiet())
    assert stopped.value.exit_status == 143


class Quiet:
    def step(self, *args):
        pass

    def epoch(self, *args):
        pass


def test_stopped_and_resumed_is_bit_equal(tmp_path):
    config = tiny()
    train(config, tmp_path / "whole")
    run_until(tmp_path / "parts", 11, config)  # in the middle of the second epoch
    resume(tmp_path / "parts")
    a, b = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    for state in (a, b):
        for row in state["rows"]:
            row.pop("images_per_second")
        state["totals"].pop("seconds")
    assert a["rows"] == b["rows"]
    assert a["step"] == b["step"] == 16
    for name, tensor in a["model"].items():
        assert torch.equal(tensor, b["model"][name]), name
    for n, state in a["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], b["optimizer"]["state"][n]["momentum_buffer"])


def test_divergence_names_the_step_and_keeps_the_checkpoint(tmp_path):
    config = tiny(("recipe.learning_rate", 1e30), ("recipe.warmup_epochs", 0.0), ("run.checkpoint_steps", 1))
    with pytest.raises(DivergedError, match="the loss became nan at step") as diverged:
        train(config, tmp_path / "run")
    assert diverged.value.exit_status == 4
    RunFolder(tmp_path / "run").load_checkpoint()


def test_a_damaged_or_evil_checkpoint_is_a_sentence(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(SasaError, match="holds no checkpoint to resume from"):
        folder.load_checkpoint()
    folder.save_checkpoint({"step": 1})
    assert folder.load_checkpoint()["step"] == 1
    content = folder.checkpoint_path.read_bytes()
    folder.checkpoint_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SasaError, match="is damaged, or no checkpoint"):
        folder.load_checkpoint()
    marker = tmp_path / "marker"
    torch.save(Evil(str(marker)), folder.checkpoint_path)
    with pytest.raises(SasaError, match="is damaged, or no checkpoint"):
        folder.load_checkpoint()
    assert not marker.exists()
    torch.save({"format": 99}, folder.checkpoint_path)
    with pytest.raises(SasaError, match="no checkpoint that this version reads"):
        folder.load_checkpoint()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_schedule_rises_and_falls():
    factors = [schedule(step, 100, 10) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert all(a < b for a, b in pairwise(factors[:11]))
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001


def test_weight_decay_spares_norms_biases_and_positions():
    network = Trainer.start(tiny()).network
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


def test_a_wrong_number_of_classes_is_a_sentence():
    with pytest.raises(UsageError, match=r"model\.num_classes is 7, but the data has 10 classes"):
        Trainer.start(tiny(("model.num_classes", 7)))


def test_a_second_signal_would_end_at_once():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_clock():
    assert (clock(5), clock(65), clock(3725)) == ("0:05", "1:05", "1:02:05")
