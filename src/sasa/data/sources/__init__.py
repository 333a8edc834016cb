"""Where pictures and labels come from. A source is opened by one string: "digits", a folder, a file or a pattern."""

from sasa.data.sources.base import Pixels, Source, Subset
from sasa.data.sources.digits import Digits
from sasa.data.sources.folders import ClassFolders
from sasa.data.sources.open import open_splits
from sasa.data.sources.parquet import ImageParquet
from sasa.data.sources.shards import TarShards
from sasa.data.sources.splits import HELD_OUT_NAMES, TRAIN_NAMES, split

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
