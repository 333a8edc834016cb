"""Object detection: boxes with classes, RetinaNet's losses, average precision. The names are those of `TaskPackage`."""

from sasa.tasks.detection.config import DetectionConfig as Config
from sasa.tasks.detection.config import resolve
from sasa.tasks.detection.evaluation import evaluate
from sasa.tasks.detection.generated import CPU_PART, KNOWN_SETS, generated
from sasa.tasks.detection.predictor import Detector as Predictor
from sasa.tasks.detection.task import Detection as Task

__all__ = ["CPU_PART", "KNOWN_SETS", "Config", "Predictor", "Task", "evaluate", "generated", "resolve"]
