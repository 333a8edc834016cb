"""Object detection: boxes with classes, RetinaNet's losses, average precision."""

from sasa.tasks.base import TaskPackage
from sasa.tasks.detection.config import DetectionConfig, resolve
from sasa.tasks.detection.evaluation import evaluate
from sasa.tasks.detection.generated import CPU_PART, KNOWN_SETS, generate
from sasa.tasks.detection.predictor import Detector
from sasa.tasks.detection.task import Detection

PACKAGE = TaskPackage(DetectionConfig, resolve, Detection, Detector, evaluate, generate, KNOWN_SETS, CPU_PART)
