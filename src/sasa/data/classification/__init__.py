"""Labelled images. One string opens a source: "digits", a directory, a file or a pattern of files."""

from sasa.data.classification.class_folders import ClassFolders
from sasa.data.classification.open import open_splits, split
from sasa.data.classification.parquet import ImageParquet
from sasa.data.classification.shards import TarShards
from sasa.data.classification.source import Digits, Pixels, Source, Subset

__all__ = ["ClassFolders", "Digits", "ImageParquet", "Pixels", "Source", "Subset", "TarShards", "open_splits", "split"]
