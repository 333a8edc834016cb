"""Anchors, matches, losses and boxes: against torchvision's own, and against loops written from the formulas."""

import math
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

import sasa
from sasa.models.boxes import Selection, anchors, losses, match, select
from sasa.models.config import VARIANTS
from sasa.models.retinanet import Outputs
from sasa.models.retinanet_config import RetinaNetConfig

CPU = torch.device("cpu")
CLASSES = 3
CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
EMPTY = torch.zeros(0, 4)


def make_config(**options):
    return RetinaNetConfig.from_dict({**VARIANTS["sasa_resnet26"], "num_classes": CLASSES, **options})


CONFIG = make_config()


def sizes_of(height, width, config=CONFIG):
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in config.strides]


def all_anchors(height, width, config=CONFIG):
    return torch.cat(anchors(config, sizes_of(height, width, config), CPU))


def random_outputs(batch, height, width, spread=1.0):
    total = len(all_anchors(height, width))
    logits, deltas = spread * torch.randn(batch, total, CLASSES), 0.3 * torch.randn(batch, total, 4)
    return Outputs(logits, deltas, sizes_of(height, width))


def silent_outputs(height, width, batch=1):
    """Outputs that predict no object; each anchor's box is the anchor itself."""
    total = len(all_anchors(height, width))
    return Outputs(torch.full((batch, total, CLASSES), -20.0), torch.zeros(batch, total, 4), sizes_of(height, width))


# Anchors


@pytest.mark.parametrize("options", [{}, {"anchors": 9}, {"anchor_scale": 2.5}, {"stem": "small_conv"}], ids=str)
def test_anchors_are_torchvisions_in_the_middle_of_their_pixels(options):
    config = make_config(**options)
    octaves = 3 if config.anchors == 9 else 2
    sides = tuple(
        tuple(config.anchor_scale * stride * 2 ** (n / octaves) for n in range(octaves)) for stride in config.strides
    )
    generator = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 5)
    maps = [torch.zeros(1, 1, *size) for size in sizes_of(256, 256, config)]
    theirs = generator(ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)]), maps)[0]
    levels = anchors(config, sizes_of(256, 256, config), CPU)
    shift = torch.cat([torch.full((len(x), 1), stride / 2) for x, stride in zip(levels, config.strides, strict=True)])
    assert torch.equal(torch.cat(levels), theirs + shift)


def test_anchors_from_their_formula():
    sizes = [(5, 7), (3, 4), (2, 2), (1, 1), (1, 1)]
    for level, stride, (height, width) in zip(anchors(CONFIG, sizes, CPU), CONFIG.strides, sizes, strict=True):
        assert len(level) == height * width * 6
        for place, (x1, y1, x2, y2) in enumerate(level.tolist()):
            row, column = divmod(place // 6, width)
            assert ((x1 + x2) / 2, (y1 + y2) / 2) == ((column + 0.5) * stride, (row + 0.5) * stride)
            ratio, size = (0.5, 1, 2)[place % 6 // 2], 4 * stride * 2 ** (place % 2 / 2)
            assert x2 - x1 == pytest.approx(size / ratio**0.5, abs=1)  # torchvision rounds its corners
            assert y2 - y1 == pytest.approx(size * ratio**0.5, abs=1)


# Matches


def test_every_object_has_an_anchor():
    own = torch.tensor([[10.0, 10, 13, 12], [40, 0, 58, 127], [60, 2, 66, 126], [70, 70, 120, 110]])
    every = all_anchors(128, 128)
    overlaps = box_iou(own, every)
    assert overlaps[0].max() < 0.4  # far too small for any
    matches = match(every, own, EMPTY)
    assert set(range(4)) <= set(matches.tolist())
    for n in range(4):
        assert matches[overlaps[n].argmax()] == n


def test_anchors_between_the_thresholds_are_ignored():
    own = torch.tensor([[20.0, 20, 70, 60]])
    every = all_anchors(128, 128)
    overlap = box_iou(own, every)[0]
    matches = match(every, own, EMPTY)
    assert (matches[overlap >= 0.5] == 0).all()
    assert (matches[overlap < 0.4] == -1).all()
    between = (overlap >= 0.4) & (overlap < 0.5)
    assert between.any()
    assert (matches[between] == -2).all()


def test_a_box_that_no_anchor_overlaps_matches_none():
    every = all_anchors(64, 64)
    real = torch.tensor([[8.0, 8, 40, 40]])
    expected = match(every, real, EMPTY)
    for nothing in ([30.0, 30, 30, 50], [30, 30, 30, 30], [9000, 9000, 9100, 9100]):
        assert (match(every, torch.tensor([nothing]), EMPTY) == -1).all()
        assert torch.equal(match(every, torch.cat([real, torch.tensor([nothing])]), EMPTY), expected)
        matches = match(every, torch.cat([torch.tensor([nothing]), real]), EMPTY)
        assert torch.equal(matches, torch.where(expected == 0, 1, expected))


def test_a_box_without_area_leaves_the_losses_finite():
    outputs = random_outputs(1, 64, 64)
    own = torch.tensor([[8.0, 8, 40, 40], [30, 30, 30, 50]])
    both = losses(CONFIG, outputs, [own], [torch.tensor([0, 1])], [EMPTY])
    alone = losses(CONFIG, outputs, [own[:1]], [torch.tensor([0])], [EMPTY])
    assert torch.equal(both.box, alone.box)
    assert torch.equal(both.classification, alone.classification)


def test_anchors_inside_a_crowd_are_ignored():
    own, crowd = torch.tensor([[4.0, 4, 40, 36]]), torch.tensor([[64.0, 0, 128, 128], [0, 100, 20, 128]])
    every = all_anchors(128, 128)
    plain, matches = match(every, own, EMPTY), match(every, own, crowd)
    area = (every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1])
    inside = torch.zeros(len(every))
    for x1, y1, x2, y2 in crowd:
        wide = (every[:, 2].minimum(x2) - every[:, 0].maximum(x1)).clamp_min(0)
        inside = inside.maximum(wide * (every[:, 3].minimum(y2) - every[:, 1].maximum(y1)).clamp_min(0) / area)
    changed = (plain == -1) & (inside > 0.5)
    assert changed.any()
    assert (matches[changed] == -2).all()
    assert torch.equal(matches[~changed], plain[~changed])


def test_a_background_anchor_inside_a_crowd_changes_no_loss():
    outputs = random_outputs(1, 128, 128)
    own, crowd = torch.tensor([[4.0, 4, 40, 36]]), torch.tensor([[64.0, 0, 128, 128]])
    arguments = ([own], [torch.tensor([1])], [crowd])
    before = losses(CONFIG, outputs, *arguments)
    matches = match(all_anchors(128, 128), own, crowd)
    asked = match(all_anchors(128, 128), own, EMPTY)
    loud = outputs.logits.clone()
    loud[0, (matches == -2) & (asked == -1)] = 9.0
    after = losses(CONFIG, outputs._replace(logits=loud), *arguments)
    assert torch.equal(before.classification, after.classification)
    assert torch.equal(before.box, after.box)
    assert losses(CONFIG, outputs._replace(logits=loud), *arguments[:2], [EMPTY]).classification > after.classification


def test_an_object_inside_a_crowd_is_still_matched():
    own = torch.tensor([[70.0, 10, 110, 50]])
    matches = match(all_anchors(128, 128), own, torch.tensor([[60.0, 0, 128, 128]]))
    assert (matches == 0).any()


# Losses


def overlap_of(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def naive_matches(every, own):
    """The index of each anchor's box, -1 for background, -2 for ignored, by loops."""
    overlaps = [[overlap_of(anchor, box) for box in own] for anchor in every]
    best_of_box = [max(row[n] for row in overlaps) for n in range(len(own))]
    matches = []
    for row in overlaps:
        best = max(row, default=0.0)
        if best >= 0.5 or any(abs(value - best_of_box[n]) < 1e-9 for n, value in enumerate(row)):
            matches.append(row.index(best))
        else:
            matches.append(-1 if best < 0.4 else -2)
    return matches


def naive_losses(outputs, boxes, labels):
    """Focal loss (alpha 0.25, gamma 2) and smooth L1 (beta 1/9) of the batch over its number of object anchors."""
    height, width = outputs.sizes[0]
    every = all_anchors(height * 8, width * 8).double().tolist()
    focal = box_loss = count = 0
    for n, own in enumerate(boxes):
        own = own.double().tolist()
        for place, found in enumerate(naive_matches(every, own)):
            if found == -2:
                continue
            for label in range(CLASSES):
                chance = 1 / (1 + math.exp(-outputs.logits[n, place, label].item()))
                if found >= 0 and labels[n][found] == label:
                    focal -= 0.25 * (1 - chance) ** 2 * math.log(chance)
                else:
                    focal -= 0.75 * chance**2 * math.log(1 - chance)
            if found >= 0:
                count += 1
                (ax1, ay1, ax2, ay2), (x1, y1, x2, y2) = every[place], own[found]
                wide, high = ax2 - ax1, ay2 - ay1
                wanted = (
                    ((x1 + x2) / 2 - (ax1 + ax2) / 2) / wide,
                    ((y1 + y2) / 2 - (ay1 + ay2) / 2) / high,
                    math.log((x2 - x1) / wide),
                    math.log((y2 - y1) / high),
                )
                for ours, aim in zip(outputs.deltas[n, place].tolist(), wanted, strict=True):
                    off = abs(ours - aim)
                    box_loss += 4.5 * off**2 if off < 1 / 9 else off - 1 / 18
    return focal / max(count, 1), box_loss / max(count, 1), count


SCENES = {
    "one box": [[[8.0, 8, 40, 44]]],
    "several": [[[8.0, 8, 40, 44], [3, 30, 9, 34], [0, 0, 64, 61]], [[20.5, 11.2, 50.1, 60.9]]],
    "an empty image between": [[[8.0, 8, 40, 44]], [], [[1, 1, 63, 30], [1.5, 2, 63, 31]]],
    "none at all": [[], []],
}


@pytest.mark.parametrize("scene", SCENES)
def test_losses_are_those_of_the_formulas(scene):
    torch.manual_seed(0)
    boxes = [torch.tensor(own).reshape(-1, 4) for own in SCENES[scene]]
    labels = [torch.arange(len(own)) % CLASSES for own in boxes]
    outputs = random_outputs(len(boxes), 64, 64)
    found = losses(CONFIG, outputs, boxes, labels, [EMPTY] * len(boxes))
    focal, box, count = naive_losses(outputs, boxes, labels)
    assert (count > 0) == (scene != "none at all")
    assert found.classification.item() == pytest.approx(focal, rel=1e-5)
    assert found.box.item() == pytest.approx(box, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("scene", SCENES)
def test_gradients_flow_and_are_finite(scene):
    outputs = random_outputs(len(SCENES[scene]), 64, 64, spread=40.0)  # probabilities of 0 and 1
    outputs.logits.requires_grad_()
    outputs.deltas.requires_grad_()
    boxes = [torch.tensor(own).reshape(-1, 4) for own in SCENES[scene]]
    labels = [torch.zeros(len(own), dtype=torch.int64) for own in boxes]
    found = losses(CONFIG, outputs, boxes, labels, [EMPTY] * len(boxes))
    (found.classification + found.box).backward()
    assert outputs.logits.grad.isfinite().all()
    assert outputs.logits.grad.any()
    assert outputs.deltas.grad.isfinite().all()
    for n, own in enumerate(boxes):
        asked = match(all_anchors(64, 64), own, EMPTY) >= 0
        assert torch.equal(outputs.deltas.grad[n].any(1), asked)


def test_half_precision_outputs_have_losses_in_float32():
    outputs = random_outputs(1, 64, 64)
    half = Outputs(outputs.logits.bfloat16(), outputs.deltas.bfloat16(), outputs.sizes)
    arguments = ([torch.tensor([[8.0, 8, 40, 44]])], [torch.tensor([2])], [EMPTY])
    for ours, exact in zip(losses(CONFIG, half, *arguments), losses(CONFIG, outputs, *arguments), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact, rtol=0.02, atol=0)


def test_no_images_have_no_loss():
    outputs = random_outputs(0, 64, 64)
    outputs.logits.requires_grad_()
    classification, box = losses(CONFIG, outputs, [], [], [])
    assert (classification.item(), box.item()) == (0, 0)
    (classification + box).backward()


def test_the_focal_loss_keeps_nothing_of_the_size_of_the_logits():
    """But the logits themselves."""
    outputs, kept = random_outputs(2, 64, 64), []
    for values in (outputs.logits, outputs.deltas):
        values.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        losses(CONFIG, outputs, [torch.tensor([[8.0, 8, 40, 44]])] * 2, [torch.tensor([2])] * 2, [EMPTY] * 2)
    own = outputs.logits.untyped_storage().data_ptr()
    others = [tensor.numel() for tensor in kept if tensor.untyped_storage().data_ptr() != own]
    assert 0 < max(others) < outputs.logits[0].numel()


def test_two_boxes_on_one_place_are_one_match():
    own = torch.tensor([[8.0, 8, 40, 44]] * 2)
    matches = match(all_anchors(64, 64), own, EMPTY)
    assert set(matches.tolist()) <= {-2, -1, 0}


# Boxes


def say(outputs, anchor, label, box, logit=20.0, image=0, size=(128, 128)):
    """Let an anchor predict a class with certainty, and exactly this box."""
    outputs.logits[image, anchor, label] = logit
    own = all_anchors(*size)[anchor : anchor + 1]
    outputs.deltas[image, anchor] = CODER.encode_single(torch.tensor([box]), own)[0]


@pytest.mark.parametrize("anchor", [0, 777, 6 * 256, 6 * (256 + 64 + 16) + 5, -1])
def test_a_box_is_decoded_from_one_anchor(anchor):
    outputs = silent_outputs(128, 128, batch=2)
    anchor %= outputs.logits.shape[1]
    box = [10.5, 20.25, 70.0, 90.75]
    say(outputs, anchor, 2, box, image=1)
    nothing, found = select(CONFIG, outputs, [(128, 128)] * 2)
    assert (nothing.boxes.shape, nothing.labels.shape, nothing.scores.shape) == ((0, 4), (0,), (0,))
    assert nothing.labels.dtype == found.labels.dtype == torch.int64
    torch.testing.assert_close(found.boxes, torch.tensor([box]), rtol=0, atol=1e-3)
    assert found.labels.tolist() == [2]
    assert found.scores.item() == pytest.approx(1)


def test_boxes_are_cut_at_the_image_inside_its_padding():
    outputs = silent_outputs(128, 128)
    say(outputs, 900, 0, [-5.0, 30.0, 110.0, 125.0])
    found = select(CONFIG, outputs, [(100, 90)])[0]
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 30, 90, 100]]))


def test_boxes_in_the_padding_are_dropped():
    outputs = silent_outputs(128, 128)
    say(outputs, 900, 0, [100.0, 30.0, 120.0, 60.0])
    say(outputs, 901, 1, [10.0, 105.0, 20.0, 120.0])
    assert select(CONFIG, outputs, [(100, 90)])[0].boxes.shape == (0, 4)
    assert len(select(CONFIG, outputs, [(128, 128)])[0].boxes) == 2


def test_weaker_boxes_of_the_same_class_are_suppressed():
    outputs = silent_outputs(128, 128)
    say(outputs, 500, 1, [10.0, 10, 60, 60], logit=3.0)
    say(outputs, 510, 1, [12.0, 10, 60, 62], logit=4.0)  # the same object on another anchor
    say(outputs, 520, 0, [10.0, 10, 60, 60], logit=2.0)  # of another class
    say(outputs, 530, 1, [70.0, 70, 120, 120], logit=1.0)  # elsewhere
    found = select(CONFIG, outputs, [(128, 128)])[0]
    assert found.labels.tolist() == [1, 0, 1]
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-logit)) for logit in (4, 2, 1)])
    expected = torch.tensor([[12.0, 10, 60, 62], [10, 10, 60, 60], [70, 70, 120, 120]])
    torch.testing.assert_close(found.boxes, expected, rtol=0, atol=1e-3)
    assert len(select(CONFIG, outputs, [(128, 128)], Selection(overlap=0.99))[0].boxes) == 4


def test_one_anchor_may_predict_two_classes():
    outputs = silent_outputs(128, 128)
    outputs.logits[0, 40, :2] = torch.tensor([2.0, 5.0])
    assert select(CONFIG, outputs, [(128, 128)])[0].labels.tolist() == [1, 0]


def test_limits():
    outputs = random_outputs(1, 128, 128, spread=3.0)
    found = select(CONFIG, outputs, [(128, 128)], Selection(most=7))[0]
    assert len(found.boxes) == len(found.labels) == len(found.scores) == 7
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    everything = select(CONFIG, outputs, [(128, 128)], Selection(overlap=1.0, per_level=10, most=10**6))[0]
    assert 5 * 6 < len(everything.boxes) <= 5 * 10
    strict = select(CONFIG, outputs, [(128, 128)], Selection(score=0.9))[0]
    assert strict.scores.min() > 0.9
    assert select(CONFIG, outputs, [(128, 128)], Selection(score=1.0))[0].boxes.shape == (0, 4)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_boxes_are_those_of_torchvision(spread):
    torch.manual_seed(0)
    outputs = random_outputs(2, 160, 200, spread)
    sizes = [(160, 200), (150, 170)]
    levels = anchors(CONFIG, outputs.sizes, CPU)
    lengths = [len(level) for level in levels]
    most = 10**6  # torchvision keeps boxes that clipping left without area
    theirs = TorchvisionRetinaNet.postprocess_detections(
        SimpleNamespace(
            score_thresh=0.05, topk_candidates=300, nms_thresh=0.5, detections_per_img=most, box_coder=CODER
        ),
        {"cls_logits": outputs.logits.split(lengths, 1), "bbox_regression": outputs.deltas.split(lengths, 1)},
        [levels] * 2,
        sizes,
    )
    ours = select(CONFIG, outputs, sizes, Selection(per_level=300, most=most))
    for found, expected in zip(ours, theirs, strict=True):
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        rows = zip(expected["scores"].tolist(), expected["labels"].tolist(), expected["boxes"].tolist(), strict=True)
        with_area = [row for row in rows if row[2][0] < row[2][2] and row[2][1] < row[2][3]]
        assert len(with_area) > 100
        ours_too = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
        assert sorted(ours_too) == sorted(with_area)  # the order of equal scores is undefined


@torch.no_grad()
def test_an_empty_batch_and_an_image_of_one_pixel():
    network = sasa.create_model(
        "retinanet_sasa_resnet26_attn", layers=(1, 1, 1, 1), width=0.05, num_heads=2, kernel_size=3, num_classes=3
    ).eval()
    assert select(network.config, network(torch.zeros(0, 3, 32, 32)), []) == []
    found = select(network.config, network(torch.zeros(1, 3, 1, 1)), [(1, 1)], Selection(score=0.0))[0]
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 1).all()
