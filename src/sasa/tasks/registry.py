"""The tasks by name. A new task is a package beside `classification`, with the names of `TaskPackage`, and a line here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sasa.errors import UsageError
from sasa.tasks import classification, detection
from sasa.tasks.stand_in import KnownSet
from sasa.tasks.trained import Evaluation, EvaluationOptions, TrainedNetwork
from sasa.training.settings import Config, parse_yaml
from sasa.training.task import Task


class TaskPackage(Protocol):
    """The names that the package of a task exports.

    Config: settings of a run. resolve: (file or recipe or None, changes) -> Config. Task: (config, fabric, splits or
    None) -> what the loop trains. Predictor: a trained network. evaluate: scores it. KNOWN_SETS, generated, CPU_PART:
    data sets by name, (set, config) -> generated splits of its size, and images a step of a dry run without a GPU.
    """

    @property
    def Config(self) -> type[Config]: ...  # noqa: D102, N802
    @property
    def resolve(self) -> Callable[[str | None, list[tuple[str, Any]]], Config]: ...  # noqa: D102
    @property
    def Task(self) -> Callable[[Any, Any, Any], Task]: ...  # noqa: D102, N802
    @property
    def Predictor(self) -> type[TrainedNetwork]: ...  # noqa: D102, N802
    @property
    def evaluate(self) -> Callable[[Any, str, EvaluationOptions], Evaluation]: ...  # noqa: D102
    @property
    def KNOWN_SETS(self) -> dict[str, KnownSet]: ...  # noqa: D102, N802
    @property
    def generated(self) -> Callable[[KnownSet, Any], tuple[Any, Any]]: ...  # noqa: D102
    @property
    def CPU_PART(self) -> int: ...  # noqa: D102, N802


TASKS: dict[str, TaskPackage] = {"classification": classification, "detection": detection}
KNOWN_SETS = {name: known for package in TASKS.values() for name, known in package.KNOWN_SETS.items()}


def make_task(config: Config, fabric: Any, splits: tuple[Any, Any] | None = None) -> Task:
    """Make the task of a config, on its own data or on `splits` (training images, held-out images)."""
    return TASKS[config.TASK].Task(config, fabric, splits)


def config_of(values: dict[str, Any]) -> Config:
    """Make the config of the task that the plain values name (classification, if none).

    Raises:
        UsageError: an unknown task, or as `Config.from_dict`.
    """
    name = values.get("task", "classification")
    if name not in TASKS:
        raise UsageError(f"task must be {' or '.join(TASKS)}, got {name!r}")
    return TASKS[name].Config.from_dict(values)


def read_config(path: Path) -> Config:
    """Read the config.yaml of a run, of any task.

    Raises:
        UsageError: it is not a config.
    """
    return config_of(parse_yaml(path.read_text(), str(path)))
