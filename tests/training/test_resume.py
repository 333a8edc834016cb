"""A run that was stopped or killed, and resumed, ends bit for bit like an uninterrupted one."""

import csv
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision

from processes import kill, start_python, wait_until
from runs import assert_equal, begin, quiet, settings, state_of, tiny, write_digits
from sasa.errors import DataError, SasaError
from sasa.tasks.classification.task import Classification
from sasa.tasks.train import resume, train
from sasa.training.run_directory import RunDirectory
from sasa.training.signals import StoppedError, StopRequest

FROM_HERE = [
    ("recipe.epochs", 2),
    ("recipe.batch_size", 16),
    ("run.checkpoint_steps", 5),
    ("data.limit", 0),
    ("recipe.mixup", 0.2),  # random numbers of the step itself
]
HELD = Path(__file__).parents[1] / "held_command.py"


def steps_logged(path):
    file = path / "steps.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


@pytest.mark.parametrize(
    ("kind", "workers", "in_memory"),
    [("folder", 0, False), ("folder", 2, False), ("parquet", 0, False), ("parquet", 2, False), ("folder", 0, True)],
)
def test_killed_at_a_random_step_and_resumed_is_bit_equal(tmp_path, kind, workers, in_memory):
    source = write_digits(tmp_path / "data", kind)
    changes = [*FROM_HERE, ("data.source", str(source)), ("data.workers", workers), ("data.in_memory", in_memory)]
    config = tiny(*changes)
    train(config, tmp_path / "whole")

    chosen = random.randint(6, 30)
    process = start_python(HELD, 36, "train", "--output", tmp_path / "killed", *settings(*changes))
    wait_until(lambda: len(steps_logged(tmp_path / "killed")) >= chosen, process)
    time.sleep(random.uniform(0, 0.05))  # anywhere within a step
    kill(process)
    assert RunDirectory(tmp_path / "killed").load_checkpoint()[0]["step"] <= 36
    summary = resume(tmp_path / "killed")

    assert summary["steps"] == 40
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "killed"), f"killed after {chosen} steps")
    for name in ("model.safetensors", "best/model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    logged = [
        [(row["step"], row["loss"], row["learning_rate"]) for row in steps_logged(tmp_path / name)]
        for name in ("whole", "killed")
    ]
    assert logged[0] == logged[1]
    assert [step for step, _, _ in logged[0]] == [str(n) for n in range(1, 41)]


def test_a_directory_in_which_another_process_trains_is_refused(tmp_path):
    path = tmp_path / "run"
    changes = [("run.checkpoint_steps", 1), ("data.workers", 1)]
    process = start_python(HELD, 3, "train", "--output", path, *settings(*changes))
    sentence = re.escape(f"another process is training in {path}: wait for its end, or name another --output")
    try:
        wait_until((path / "checkpoint.previous.pt").exists, process)
        with pytest.raises(SasaError, match=sentence) as refused:
            resume(path)
        assert refused.value.exit_status == 1
        with pytest.raises(SasaError, match=sentence):
            train(tiny(*changes), path)
    finally:
        process.kill()  # its worker process lives on for a while, and holds no lock
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert resume(path)["steps"] == 16


def run_until(path, stop_at, config, number=signal.SIGTERM):
    """Train, and send this process a signal in step `stop_at`."""
    trainer, directory = begin(config, path)
    step = trainer.train_step

    def stopping(*args):
        loss = step(*args)
        if trainer.step == stop_at:
            os.kill(os.getpid(), number)
        return loss

    trainer.train_step = stopping
    reports = quiet(trainer, directory)
    with pytest.raises(StoppedError, match=f"stopped at step {stop_at}, saved; resume with: sasa train") as stopped:
        trainer.run(directory, reports)
    reports.close()
    assert stopped.value.exit_status == 128 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_by_a_signal_and_resumed_is_bit_equal(tmp_path, number):
    config = tiny(("recipe.optimizer", "adamw"), ("recipe.learning_rate", 1e-3))
    train(config, tmp_path / "whole")
    before = signal.signal(number, signal.default_int_handler)  # under nohup, SIGHUP is ignored
    try:
        run_until(tmp_path / "parts", 11, config, number)  # in the middle of the second epoch
    finally:
        signal.signal(number, before)
    resume(tmp_path / "parts")
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def stop_in(monkeypatch, owner, name):
    """Send this process a signal when the method has done its work for the first time: a second one would end it."""
    method = getattr(owner, name)

    def interrupted(*args):
        monkeypatch.setattr(owner, name, method)
        result = method(*args)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize("name", ["create", "write_metrics", "save_checkpoint"])
def test_interrupted_while_a_file_is_written(tmp_path, monkeypatch, name):
    """Before the first step, in the evaluation of an epoch, in a checkpoint: the run can always be resumed."""
    train(tiny(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in(patch, RunDirectory, name)
        with pytest.raises(StoppedError, match="saved; resume with: sasa train --resume"):
            train(tiny(), tmp_path / "parts")
    resume(tmp_path / "parts")
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_interrupted_while_the_results_are_written(tmp_path, monkeypatch):
    stop_in(monkeypatch, Classification, "summary")
    assert train(tiny(), tmp_path)
    assert {"summary.json", "curves.png", "predictions.png"} <= {path.name for path in tmp_path.iterdir()}
    assert resume(tmp_path)


def test_a_damaged_checkpoint_falls_back_and_still_ends_bit_equal(tmp_path, capsys):
    config = tiny(("run.checkpoint_steps", 3))
    train(config, tmp_path / "whole")
    run_until(tmp_path / "parts", 11, config)
    checkpoint = tmp_path / "parts" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    resume(tmp_path / "parts")
    assert "resuming from checkpoint.previous.pt, step 9" in capsys.readouterr().err
    assert (tmp_path / "parts" / "checkpoint.damaged.pt").exists()
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert len(steps_logged(tmp_path / "parts")) == 16


def test_a_finished_run_resumed_writes_the_same_again(tmp_path):
    path = tmp_path / "run"
    train(tiny(), path)
    before = {name: (path / name).read_bytes() for name in ("model.safetensors", "metrics.csv", "steps.csv")}
    (path / "model.safetensors").unlink()
    resume(path)
    assert {name: (path / name).read_bytes() for name in before} == before


def test_a_run_whose_first_epochs_had_averages(tmp_path):
    """Earlier versions averaged the weights of short runs too, where that was "auto"."""
    run_until(tmp_path, 11, tiny(("recipe.ema_decay", 0.9)))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["config"]["recipe"]["ema_decay"] = "auto"
    torch.save(state, tmp_path / "checkpoint.pt")
    assert resume(tmp_path)["weights"] == "last step"
    first, second = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    assert first["last_top1"]
    assert second["last_top1"] == ""


def test_the_time_of_earlier_processes_counts(tmp_path):
    run_until(tmp_path, 5, tiny())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 0 < state["seconds"] < 600
    torch.save({**state, "seconds": 6000.0}, tmp_path / "checkpoint.pt")
    assert 100 <= resume(tmp_path)["minutes"] < 110


def test_half_precision_keeps_its_scale(tmp_path, monkeypatch):
    """float16 scales the loss, and the scale is part of the state. Fabric does it on a CPU only on explicit request."""
    half = lambda run: Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu")])  # noqa: E731
    monkeypatch.setattr("sasa.tasks.train.make_fabric", half)
    config = tiny()
    train(config, tmp_path / "whole")
    run_until(tmp_path / "parts", 11, config)
    assert state_of(tmp_path / "parts")["precision"]["scale"] > 0
    resume(tmp_path / "parts")
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_images_left_out_are_remembered(tmp_path):
    source = write_digits(tmp_path / "data", "folder", 200)
    bad = sorted(source.rglob("*.png"))[::40]
    for path in bad:
        path.write_bytes(path.read_bytes()[:30])
    changes = [("data.source", str(source)), ("data.on_bad_image", "skip"), ("data.limit", 0)]
    config = tiny(*changes)
    summary = train(config, tmp_path / "whole")
    assert summary["skipped_pictures"] == len(bad)
    assert (tmp_path / "whole" / "skipped.txt").read_text().splitlines() == [str(path) for path in bad]
    run_until(tmp_path / "parts", 7, config)
    assert resume(tmp_path / "parts")["skipped_pictures"] == len(bad)
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    with pytest.raises(DataError, match=r"\.png cannot be read|\.png is not an image"):
        train(tiny(*changes, ("data.on_bad_image", "error")), tmp_path / "error")


def test_a_second_signal_ends_at_once():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_in_a_nested_request_reaches_the_outer_one():
    with StopRequest() as outer:
        outer.check("not stopped")
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError, match="stopped between two runs") as stopped:
            outer.check("stopped between two runs")
        assert stopped.value.exit_status == 128 + signal.SIGTERM
        with StopRequest() as later:
            assert later.signal_number == signal.SIGTERM


def test_a_signal_that_the_parent_ignores_stays_ignored():
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal_number is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
