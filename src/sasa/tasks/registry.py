"""The tasks by name. A new task is a package beside `classification` and a line in TASKS."""

from pathlib import Path
from typing import Any

from sasa.errors import UsageError
from sasa.models.hub import locate
from sasa.models.retinanet_config import DETECTORS
from sasa.models.weights import read_config as read_saved
from sasa.tasks import classification, detection
from sasa.tasks.base import TaskPackage
from sasa.tasks.trained import TrainedNetwork
from sasa.training.settings import Config, parse_yaml
from sasa.training.task import Task

TASKS: dict[str, TaskPackage] = {"classification": classification.PACKAGE, "detection": detection.PACKAGE}
KNOWN_SETS = {name: known for package in TASKS.values() for name, known in package.known_sets.items()}


def make_task(config: Config, fabric: Any, splits: tuple[Any, Any] | None = None) -> Task:
    """Make the task of a config, on its own data or on `splits` (training images, held-out images)."""
    return TASKS[config.TASK].make(config, fabric, splits)


def config_of(values: dict[str, Any]) -> Config:
    """Make the config of the task that the plain values name (classification, if none).

    Raises:
        UsageError: an unknown task, or as `Config.from_dict`.
    """
    name = values.get("task", "classification")
    if name not in TASKS:
        raise UsageError(f"task must be {' or '.join(TASKS)}, got {name!r}")
    return TASKS[name].config.from_dict(values)


def read_config(path: Path) -> Config:
    """Read the config.yaml of a run, of any task.

    Raises:
        UsageError: it is not a config.
    """
    return config_of(parse_yaml(path.read_bytes(), str(path)))


def load_trained(name: str, device: str) -> TrainedNetwork:
    """Read a trained network of any task: a directory, or hf:OWNER/NAME; on the device "auto", "cpu" or "cuda".

    Raises:
        SasaError: not a trained network; no such device.
    """
    directory = locate(name)
    detects = directory.is_dir() and read_saved(directory)["architecture"] in DETECTORS
    return TASKS["detection" if detects else "classification"].predictor.load(name, device)
