"""A detector's boxes as tensors of one shape, and their export."""

import pytest
import torch

import sasa
from detectors import small
from export_networks import NEEDS_ONNX
from helpers import OPEN_REMAINDERS, normal
from sasa.errors import ArgumentError, SasaError
from sasa.export.detector import FoundBoxes, RawMaps
from sasa.models.boxes import Selection, select

SELECTION = Selection(score=0.3, most=40, per_level=200)


@pytest.fixture(scope="module")
def detector():
    """A detector with scores on both sides of the threshold, and large moves of the anchors."""
    torch.manual_seed(1)
    network = small("retinanet_resnet26", head_layers=1)
    with torch.no_grad():
        network.train()(normal(4, 3, 64, 96, dtype=torch.float32))
        network.classify.predict.weight.mul_(200)
        network.classify.predict.bias.fill_(-1.0)
        network.locate.predict.weight.mul_(40)
    return network.eval()


def test_boxes_are_those_of_select(detector):
    images = normal(3, 3, 64, 96, seed=2, dtype=torch.float32)
    with torch.no_grad():
        boxes, scores, labels = FoundBoxes(detector, SELECTION)(images)
        want = select(detector.config, detector(images), [(64, 96)] * 3, SELECTION)
    assert boxes.shape == (3, 40, 4)
    assert sum(len(found.scores) for found in want) > 30, "there is something to compare"
    for place, found in enumerate(want):
        count = len(found.scores)
        assert torch.equal(scores[place, :count], found.scores)
        assert torch.equal(labels[place, :count], found.labels)
        torch.testing.assert_close(boxes[place, :count], found.boxes)
        assert not scores[place, count:].any()
        assert (labels[place, count:] == -1).all()


def test_raw_maps(detector):
    images = normal(1, 3, 64, 96, dtype=torch.float32)
    with torch.no_grad():
        logits, deltas, _ = detector(images)
        got = RawMaps(detector)(images)
    assert torch.equal(got[0], logits)
    assert torch.equal(got[1], deltas)


@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=NEEDS_ONNX)])
def test_export_with_boxes(detector, tmp_path, format):
    images = normal(2, 3, 64, 64, seed=2, dtype=torch.float32)
    path = tmp_path / f"boxes{sasa.export.FORMATS[format].suffix}"
    done = sasa.export.export(detector, images, format, path, boxes=True)
    assert done.description["outputs"] == ["boxes", "scores", "labels"]
    with torch.no_grad():
        want = FoundBoxes(detector)(images[:1])
    boxes, scores, labels = sasa.export.load(done.path).run(images[:1])
    assert scores.count_nonzero() > 10
    torch.testing.assert_close(scores, want[1])
    assert torch.equal(labels, want[2])
    torch.testing.assert_close(boxes, want[0], atol=1e-3, rtol=1e-4)


@NEEDS_ONNX
def test_raw_maps_of_images_of_any_size(detector, tmp_path):
    """`export` itself compares images of another size and number."""
    images = normal(2, 3, 64, 64, seed=2, dtype=torch.float32)
    done = sasa.export.export(detector, images, "onnx", tmp_path / "maps.onnx", dynamic_size=True)
    assert done.description["input"]["shape"] == ["batch", 3, "height", "width"]


@pytest.mark.skipif(not OPEN_REMAINDERS, reason="graphs of this torch keep the remainders of the traced sizes")
def test_a_graph_with_open_sizes_takes_those_with_more_than_a_pixel_in_every_map(detector, tmp_path):
    """The last map of a detector has a pixel for each 128 of the image."""
    images = normal(2, 3, 160, 192, seed=2, dtype=torch.float32)
    done = sasa.export.export(detector, images, "pt2", tmp_path / "maps.pt2", dynamic_size=True)
    run = sasa.export.load(done.path).run
    for height, width in ((129, 200), (256, 131)):
        other = normal(3, 3, height, width, dtype=torch.float32)
        with torch.no_grad():
            want = RawMaps(detector)(other)
        for found, map_ in zip(run(other), want, strict=True):
            torch.testing.assert_close(found, map_, atol=1e-4, rtol=1e-4)
    sentence = (
        r"the graph does not take images of 129 x 128 \(Guard failed.*\): with open sizes, the format pt2 needs more"
    )
    with pytest.raises(SasaError, match=sentence):
        run(normal(1, 3, 129, 128, dtype=torch.float32))


def test_formats_and_options_without_boxes(detector, tmp_path):
    images = normal(1, 3, 64, 64, dtype=torch.float32)
    with pytest.raises(ArgumentError, match="boxes can be exported as pt2 or onnx, not as aoti"):
        sasa.export.export(detector, images, "aoti", tmp_path / "x.pt2", boxes=True)
    with pytest.raises(ArgumentError, match="boxes need images of one size"):
        sasa.export.export(detector, images, "onnx", tmp_path / "x.onnx", boxes=True, dynamic_size=True)
