"""Several processes: the same weights as one that accumulates, every image scored once, one writer."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from processes import TORCHRUN, run_torchrun, start_python, wait_until
from runs import assert_equal, settings, state_of, tiny
from sasa.errors import UsageError
from sasa.tasks.train import train
from sasa.training.processes import is_first, make_fabric, started

# 20 steps of 32 images. Group norm is not needed: batch norm sees the same halves either way.
TWENTY = [("recipe.epochs", 5), ("data.limit", 128), ("recipe.mixup", 0.2), ("run.checkpoint_steps", 7)]
HELD = Path(__file__).parents[1] / "held_command.py"


def distance(a, b):
    """Relative L2 over all parameters, batch norm's running statistics apart."""
    names = [n for n in a if "running_" not in n and "num_batches" not in n]
    difference = sum(float((a[n].double() - b[n].double()).square().sum()) for n in names)
    return (difference / sum(float(a[n].double().square().sum()) for n in names)) ** 0.5


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "run"
    return path, run_torchrun("-m", "sasa", "train", "--output", path, *settings(*TWENTY))


def test_two_processes_agree_with_one_that_accumulates(two, tmp_path):
    path, _ = two
    one = train(tiny(*TWENTY, ("recipe.accumulate", 2)), tmp_path / "one")
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["processes"], summary["steps"]) == (2, 20)
    assert summary["held_out_pictures"] == one["held_out_pictures"]
    a, b = state_of(path), state_of(tmp_path / "one")
    assert distance(a["model"], b["model"]) < 1e-6
    assert distance(a["average"], b["average"]) < 1e-6
    for name, tensor in a["model"].items():
        if name.endswith("num_batches_tracked"):  # counts parts
            continue
        torch.testing.assert_close(tensor, b["model"][name], rtol=1e-4, atol=1e-4)
    for x, y in zip(a["rows"], b["rows"], strict=True):
        assert x["train_loss"] == pytest.approx(y["train_loss"], abs=1e-5)
        assert x["held_out_loss"] == pytest.approx(y["held_out_loss"], abs=1e-4)


def test_the_first_process_alone_prints_and_writes(two):
    path, out = two
    assert out.count("epoch   1") == 1
    assert len((path / "steps.csv").read_text().splitlines()) == 21


def test_two_processes_killed_and_resumed_are_bit_equal(two, tmp_path):
    path = tmp_path / "killed"
    process = start_python(*TORCHRUN, HELD, 10, "train", "--output", path, *settings(*TWENTY))
    wait_until((path / "checkpoint.pt").exists, process)
    subprocess.run(["pkill", "-KILL", "-f", str(path)], check=False)  # torchrun's children have their own sessions
    process.communicate()
    run_torchrun("-m", "sasa", "train", "--resume", path)
    assert_equal(state_of(two[0]), state_of(path))


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(
        UsageError, match=r"recipe.batch_size \(32\) must be divisible by the number of processes \(1\)"
    ):
        train(tiny(("recipe.accumulate", 3)), "never")


def test_what_launched_the_processes(monkeypatch):
    assert started() == (1, 1)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "128",
        "LOCAL_WORLD_SIZE": "8",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "9")
    assert (started(), is_first()) == ((8, 16), False)
    monkeypatch.setenv("WORLD_SIZE", "129")
    with pytest.raises(UsageError, match="129 processes do not divide into machines of 8"):
        started()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_NTASKS", "32")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    assert (started(), is_first()) == ((1, 1), True)  # a script of sbatch or a shell of salloc
    assert make_fabric(tiny().run).world_size == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "32")
    monkeypatch.delenv("RANK")
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        assert (started(), is_first()) == ((8, 4), rank == "0")


@pytest.mark.parametrize(
    "change", [("run.accelerator", "gpus"), ("run.precision", "12-mixed"), ("run.precision", "16-mixed")]
)
def test_an_unknown_accelerator_or_precision_is_an_error(monkeypatch, change):
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)  # where Fabric warns of nothing
    with pytest.raises(UsageError, match=r"cannot run with run\.accelerator"):
        make_fabric(tiny(change).run)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_precision_of_other_weights_is_an_error(precision):
    sentence = rf"run\.precision '{precision}' .* the weights stay in float32, so .* 32-true, bf16-mixed, 16-mixed"
    with pytest.raises(UsageError, match=sentence):
        make_fabric(tiny(("run.precision", precision)).run)
