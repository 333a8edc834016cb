"""Data sets from outside the repository, in the directory that SASA_DATA names."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sasa.data.classification import ImageParquet, open_splits

ROOT = Path(os.environ.get("SASA_DATA", "nowhere"))

needs_cifar10 = pytest.mark.skipif(not (ROOT / "cifar10").is_dir(), reason="SASA_DATA names no folder with cifar10")


@needs_cifar10
def test_cifar10_as_hugging_face_publishes_it():
    train, held_out = open_splits(str(ROOT / "cifar10"), 0.2, 0)
    assert (len(train), len(held_out)) == (50_000, 10_000)
    assert train.classes[0] == "airplane"
    assert set(Counter(held_out.labels).values()) == {1000}
    assert train.read(49_999).size == (32, 32)
    assert "row 7" in held_out.name(7)


@needs_cifar10
def test_cifar10_by_pages_is_cifar10_in_memory():
    paths = sorted((ROOT / "cifar10").glob("test*.parquet"))
    held, by_pages = ImageParquet(paths), ImageParquet(paths, held=0)
    assert held.groups is None
    assert by_pages.groups is not None
    for index in np.random.default_rng(0).permutation(len(held))[:200].tolist():
        np.testing.assert_array_equal(np.asarray(by_pages.read(index)), np.asarray(held.read(index)))
