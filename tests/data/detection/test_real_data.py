"""BCCD, the blood cells, in the directory that SASA_DATA names."""

import os
from pathlib import Path

import pytest

from sasa.data.detection import (
    DetectionAugmentation,
    DetectionPreprocessing,
    open_detection_split,
    open_detection_splits,
    training_batches,
)
from sasa.data.sampler import EpochBatches

ROOT = Path(os.environ.get("SASA_DATA", "nowhere")) / "bccd"

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="SASA_DATA names no folder with bccd")


def test_blood_cells_as_published():
    train, held_out = open_detection_splits(str(ROOT), 0.2, 0)
    test = open_detection_split(str(ROOT), "test", classes=train.classes)
    assert [len(source) for source in (train, held_out, test)] == [205, 87, 72]
    assert train.classes == ["RBC", "WBC", "Platelets"]
    assert [len(source.coco()["annotations"]) for source in (train, held_out, test)] == [2805, 1138, 945]
    problems = [*train.problems, *held_out.problems, *test.problems]
    assert sum("has no area" in problem.what for problem in problems) == 2
    learned = sum(len(source.targets(n)) for source in (train, held_out, test) for n in range(len(source)))
    left_out = sum("is left out" in problem.what for problem in problems)
    assert learned == 4888 - left_out


def test_a_batch_of_blood_cells():
    train, _ = open_detection_splits(str(ROOT), 0.2, 0)
    order = EpochBatches(len(train), 8, 1, 0)
    batch = next(training_batches(train, DetectionPreprocessing(416), DetectionAugmentation(), 0, order, 0))
    assert batch.originals == [(480, 640)] * 8
    assert batch.images.shape[0] == 8
    assert max(batch.images.shape) <= 416
    for targets, (height, width) in zip(batch.targets, batch.sizes, strict=True):
        assert len(targets) > 0
        assert targets.boxes.min() >= 0
        assert targets.boxes[:, 2].max() <= width
        assert targets.boxes[:, 3].max() <= height
