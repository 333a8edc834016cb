"""The registry: a third task is a package and a line in it, and no other file names the tasks."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

import sasa
from runs import TINY
from sasa.errors import UsageError
from sasa.tasks import classification
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.task import Classification
from sasa.tasks.registry import TASKS, config_of, make_task
from sasa.tasks.train import resume, train
from sasa.training.run_directory import RunDirectory

ROOT = Path(sasa.__file__).parent


class ParityConfig(TrainConfig):
    """Settings of a task that distinguishes even digits from odd ones."""

    TASK = "parity"
    COMMAND = "parity train"


class Parity(Classification):
    """Reports, beside what classification does, the share of images whose predicted class has the right parity."""

    def loss(self, model, batch, seed):
        loss, sums = super().loss(model, batch, seed)
        with torch.no_grad():
            predicted = model(batch.images).argmax(1)
        return loss, {**sums, "parity": (predicted % 2 == batch.labels % 2).sum().item()}


def digits():
    """The recipe for the digits, as settings of the new task."""
    return ParityConfig.from_dict({**TrainConfig.read("digits").to_dict(), "task": "parity"})


@pytest.fixture
def parity(monkeypatch):
    package = dataclasses.replace(classification.PACKAGE, config=ParityConfig, make=Parity)
    monkeypatch.setitem(TASKS, "parity", package)


def test_every_task_is_registered_by_the_name_of_its_config_and_has_recipes():
    for name, package in TASKS.items():
        assert name == package.config.TASK
        assert package.config.recipe_names()
        assert (ROOT / "tasks" / name / "task.py").is_file()


def test_the_packages_have_the_same_files():
    names = [{path.name for path in (ROOT / "tasks" / name).iterdir() if path.suffix == ".py"} for name in TASKS]
    assert names[0] == names[1]


def test_a_third_task_trains_and_resumes(parity, tmp_path):
    config = digits()
    for key, value in [*TINY, ("recipe.epochs", 1), ("data.limit", 64), ("run.checkpoint_steps", 1)]:
        config.set(key, value)
    summary = train(config, tmp_path / "run")
    heading = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "train_parity" in heading.split(",")
    assert "task: parity\n" in (tmp_path / "run" / "config.yaml").read_text()
    directory = RunDirectory(tmp_path / "run")
    directory.previous_path.replace(directory.checkpoint_path)  # one step before the end
    assert resume(tmp_path / "run")["held_out_loss"] == summary["held_out_loss"]


def test_an_unknown_task_is_an_error():
    with pytest.raises(UsageError, match="task must be classification or detection, got 'parity'"):
        config_of({"task": "parity"})


def test_a_task_is_made_by_the_name_of_its_config(parity):
    from lightning.fabric import Fabric

    assert isinstance(make_task(digits(), Fabric(accelerator="cpu", devices=1)), Parity)


@pytest.mark.parametrize("package", ["training", "tasks"])
def test_only_the_registry_and_the_packages_know_the_tasks_by_name(package):
    """Code that all tasks share has no chains of isinstance and no names of tasks."""
    known = re.compile(r"sasa\.tasks\.(classification|detection)|isinstance\([^)]*(Config|Classification|Detection)\b")
    files = [path for path in (ROOT / package).glob("*.py") if path.name != "registry.py"]
    assert files
    for path in files:
        assert not known.search(path.read_text()), path.name
