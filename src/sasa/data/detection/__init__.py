"""Images with boxes: sources in COCO's and Pascal VOC's formats, their augmentation, and batches of them."""

from sasa.data.detection.annotations import Problem, Targets
from sasa.data.detection.batch import DetectionBatch, pad_batch
from sasa.data.detection.coco import CocoSource
from sasa.data.detection.loader import evaluation_batches, training_batches
from sasa.data.detection.open import open_detection_split, open_detection_splits
from sasa.data.detection.source import DetectionSource, DetectionSubset
from sasa.data.detection.transforms import DetectionAugmentation, DetectionPreprocessing
from sasa.data.detection.voc import VocSource

__all__ = [
    "CocoSource",
    "DetectionAugmentation",
    "DetectionBatch",
    "DetectionPreprocessing",
    "DetectionSource",
    "DetectionSubset",
    "Problem",
    "Targets",
    "VocSource",
    "evaluation_batches",
    "open_detection_split",
    "open_detection_splits",
    "pad_batch",
    "training_batches",
]
