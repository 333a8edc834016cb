"""Images with boxes: sources in the formats of COCO, Pascal VOC and YOLO, their augmentation, and batches."""

from sasa.data.detection.annotations import Problem, Targets
from sasa.data.detection.batch import DetectionBatch, evaluation_batches, pad_batch, training_batches
from sasa.data.detection.coco import CocoSource
from sasa.data.detection.open import open_detection_split, open_detection_splits
from sasa.data.detection.source import DetectionSource, DetectionSubset
from sasa.data.detection.transforms import DetectionAugmentation, DetectionPreprocessing
from sasa.data.detection.voc import VocSource
from sasa.data.detection.yolo import YoloSource

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
    "YoloSource",
    "evaluation_batches",
    "open_detection_split",
    "open_detection_splits",
    "pad_batch",
    "training_batches",
]
