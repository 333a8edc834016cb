"""Batches: padding, order, workers, images that cannot be read."""

import pickle

import pytest
import torch
from PIL import Image

from sasa.data.detection import (
    CocoSource,
    DetectionAugmentation,
    DetectionPreprocessing,
    Problem,
    Targets,
    evaluation_batches,
    pad_batch,
    training_batches,
)
from sasa.data.sampler import EpochBatches
from sasa.errors import ArgumentError, DataError

SMALL = DetectionPreprocessing(48)


@pytest.fixture
def source(coco):
    """Six images of several sizes; the last has no box."""
    names = [f"{n}.png" for n in range(6)]
    boxes = [[2 + n, 3, 10, 8 + n] for n in range(5)]
    annotations = [
        {"id": n + 1, "image_id": 10 * (n + 1), "category_id": 3 + 4 * (n % 2), "bbox": box, "iscrowd": n // 4}
        for n, box in enumerate(boxes)
    ]
    path, folder = coco(annotations, names)
    path.write_text(path.read_text().replace('"width": 40, "height": 30', '"unsaid": 0'))
    for n, name in enumerate(names):
        Image.effect_noise((40 + 5 * n, 60 - 7 * n), 90).convert("RGB").save(folder / name)
    return CocoSource(path, folder)


def test_padding():
    large, small = torch.full((3, 40, 50), 2.0), torch.full((3, 64, 7), 3.0)
    batch = pad_batch([large, small])
    assert batch.shape == (2, 3, 64, 64)
    assert torch.equal(batch[0, :, :40, :50], large)
    assert torch.equal(batch[1, :, :64, :7], small)
    assert (batch[0].sum(), batch[1].sum()) == (large.sum(), small.sum())
    assert pad_batch([large[:, :32, :32]]).shape == (1, 3, 32, 32)
    assert pad_batch([large], multiple=1).shape == (1, 3, 40, 50)
    assert pad_batch([], multiple=16, channels=1).shape == (0, 1, 16, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_every_image_once(source, workers):
    batches = list(evaluation_batches(source, SMALL, 4, workers))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert all(side % 32 == 0 for side in batch.images.shape[2:])
        for place, index in enumerate(batch.indices.tolist()):
            image = source.read(index)
            assert batch.originals[place] == (image.height, image.width) == source.size(index)
            height, width = batch.sizes[place]
            assert (height, width) == SMALL.fit(image.height, image.width)
            inside = batch.images[place, :, :height, :width]
            assert torch.equal(inside, SMALL.evaluation(image))
            assert batch.images[place].count_nonzero() == inside.count_nonzero()
            expected = SMALL.fit_targets(source.targets(index), image.height, image.width)
            assert torch.equal(batch.targets[place].boxes, expected.boxes)
            assert torch.equal(batch.targets[place].labels, source.targets(index).labels)
            assert torch.equal(batch.targets[place].crowd, source.targets(index).crowd)


def test_processes_share_the_images(source):
    parts = [evaluation_batches(source, SMALL, 4, 0, rank=rank, world_size=2) for rank in range(2)]
    assert [[batch.indices.tolist() for batch in part] for part in parts] == [[[0, 1, 2]], [[3, 4, 5]]]


def bits(batches):
    """Everything that is in batches, as bytes and numbers."""
    found = []
    for batch in batches:
        targets = [[t.numpy().tobytes() for t in (one.boxes, one.labels, one.crowd)] for one in batch.targets]
        found.append((batch.images.numpy().tobytes(), batch.sizes, targets, batch.indices.tolist(), batch.originals))
    return found


def test_training_is_the_same_for_any_number_of_workers_and_from_any_step(source):
    def train(workers, start=0, seed=7):
        augmentation = DetectionAugmentation(0.5, 2.0, colour=0.3)
        order = EpochBatches(len(source), 2, 2, seed, start)
        return bits(training_batches(source, SMALL, augmentation, seed, order, workers))

    whole = train(0)
    assert len(whole) == 6
    assert sorted(index for batch in whole[:3] for index in batch[3]) == list(range(6))
    assert train(2) == whole
    assert train(0, start=4) == whole[4:]
    assert train(0, seed=8) != whole


def test_images_that_cannot_be_read(source, tmp_path):
    (tmp_path / "images" / "1.png").write_bytes(b"nothing")
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"1\.png is not an image that can be read"):
            list(evaluation_batches(source, SMALL, 4, workers))
    batches = list(evaluation_batches(source, SMALL, 1, 0, "skip"))
    assert [batch.skipped for batch in batches] == [[], [1], [], [], [], []]
    assert (len(batches[1]), batches[1].images.shape, batches[1].targets) == (0, (0, 3, 32, 32), [])
    with pytest.raises(ArgumentError, match="on_bad_image must be error or skip, got 'ignore'"):
        evaluation_batches(source, SMALL, 1, 0, "ignore")


def test_gray_images(source):
    gray = DetectionPreprocessing(48, (0.5,), (0.5,), channels=1)
    [batch] = evaluation_batches(source, gray, 6, 0)
    assert batch.images.shape == (6, 1, 64, 64)


def test_a_batch_moves_with_its_targets(source):
    [batch] = evaluation_batches(source, SMALL, 6, 0)
    moved = batch.to(torch.device("meta"), channels_last=True)
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert (
        moved.images.device.type == moved.targets[0].boxes.device.type == moved.targets[0].crowd.device.type == "meta"
    )
    assert (len(moved), moved.sizes, moved.originals, moved.skipped) == (6, batch.sizes, batch.originals, [])


def test_targets_go_between_processes_as_bytes():
    """As tensors they would take three open files for each image."""
    from multiprocessing.reduction import ForkingPickler

    targets = Targets(torch.rand(3, 4), torch.arange(3), torch.tensor([True, False, True]))
    sent = bytes(ForkingPickler.dumps(targets))
    assert b"torch.multiprocessing" not in sent
    back = pickle.loads(sent)
    assert torch.equal(back.boxes, targets.boxes)
    assert torch.equal(back.crowd, targets.crowd)
    back.boxes.zero_()  # not read-only memory
    assert targets[targets.crowd].labels.tolist() == [0, 2]


def test_problems_are_errors():
    assert str(Problem("f.json", "a.png", 3, "is odd")) == "f.json: annotation 3 of a.png is odd"
    assert str(Problem("f.json", "", 3, "is odd")) == "f.json: annotation 3 is odd"
    assert str(Problem("f.json", "a.png", None, "is odd")) == "f.json: a.png is odd"
    assert str(Problem("f.json", "", None, "it is odd")) == "f.json: it is odd"
