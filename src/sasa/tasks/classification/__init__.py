"""Image classification: labelled images, cross-entropy, accuracy. The names below are those of `TaskPackage`."""

from sasa.tasks.classification.config import TrainConfig as Config
from sasa.tasks.classification.config import resolve
from sasa.tasks.classification.evaluation import evaluate
from sasa.tasks.classification.generated import CPU_PART, KNOWN_SETS, generated
from sasa.tasks.classification.predictor import Predictor
from sasa.tasks.classification.task import Classification as Task

__all__ = ["CPU_PART", "KNOWN_SETS", "Config", "Predictor", "Task", "evaluate", "generated", "resolve"]
