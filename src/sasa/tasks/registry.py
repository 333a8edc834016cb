"""Which task a config is of."""

from pathlib import Path
from typing import Any

from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.classification.task import Classification
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.detection.task import Detection
from sasa.training.settings import Config
from sasa.training.task import Task


def make_task(config: Config, fabric: Any, images: tuple[Any, Any] | None = None) -> Task:
    """What the config wants to be learned; of its own data, or of `images` to train on and to score."""
    if isinstance(config, DetectionConfig):
        return Detection(config, fabric, images)
    assert isinstance(config, TrainConfig)
    return Classification(config, fabric, images)


def config_of(values: dict[str, Any]) -> Config:
    """A config from plain values, of whatever kind they are."""
    return (DetectionConfig if values.get("task") == DetectionConfig.TASK else TrainConfig).from_dict(values)


def read_config(path: Path) -> Config:
    """The config that a run's folder holds, of whatever kind it is.

    Raises:
        UsageError: it is not one.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        values = None  # `read` says what is wrong
    detection = isinstance(values, dict) and values.get("task") == DetectionConfig.TASK
    return (DetectionConfig if detection else TrainConfig).read(str(path))


def with_own_weights(config: Config) -> Config:
    """The config of a network whose weights are there already: what it once started from may be gone."""
    if isinstance(config, DetectionConfig):
        config.recipe.backbone = ""
    return config
