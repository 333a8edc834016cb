"""Data sets from outside the repository, in the folder that SASA_DATA names."""

import os
from collections import Counter
from pathlib import Path

import pytest

from sasa.data.sources import open_splits

ROOT = Path(os.environ.get("SASA_DATA", "nowhere"))


@pytest.mark.skipif(not (ROOT / "cifar10").is_dir(), reason="SASA_DATA names no folder with cifar10")
def test_cifar10_as_hugging_face_publishes_it():
    train, held_out = open_splits(str(ROOT / "cifar10"), 0.2, 0)
    assert (len(train), len(held_out)) == (50_000, 10_000)
    assert train.classes[0] == "airplane"
    assert set(Counter(held_out.labels).values()) == {1000}
    assert train.read(49_999).size == (32, 32)
    assert "row 7" in held_out.name(7)
