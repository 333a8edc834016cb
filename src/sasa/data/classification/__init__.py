"""Where images and labels come from. A source is opened by one string: "digits", a folder, a file or a pattern."""

from sasa.data.classification.digits import Digits
from sasa.data.classification.folders import ClassFolders
from sasa.data.classification.open import open_splits
from sasa.data.classification.parquet import ImageParquet
from sasa.data.classification.shards import TarShards
from sasa.data.classification.source import Pixels, Source, Subset
from sasa.data.classification.splits import HELD_OUT_NAMES, TRAIN_NAMES, split

__all__ = [
    "HELD_OUT_NAMES",
    "TRAIN_NAMES",
    "ClassFolders",
    "Digits",
    "ImageParquet",
    "Pixels",
    "Source",
    "Subset",
    "TarShards",
    "open_splits",
    "split",
]
