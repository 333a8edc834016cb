"""Image classification: labelled images, cross-entropy, accuracy."""

from sasa.tasks.base import TaskPackage
from sasa.tasks.classification.config import TrainConfig, resolve
from sasa.tasks.classification.evaluation import evaluate
from sasa.tasks.classification.generated import CPU_PART, KNOWN_SETS, generate
from sasa.tasks.classification.predictor import Predictor
from sasa.tasks.classification.task import Classification

PACKAGE = TaskPackage(TrainConfig, resolve, Classification, Predictor, evaluate, generate, KNOWN_SETS, CPU_PART)
