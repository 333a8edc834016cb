"""torchvision's detectors, converted, still train and detect."""

import pytest
import torch
from torch import nn
from torchvision.models import detection

import sasa
from sasa.nn.fitted import FittedAttention2d

OPTIONS = {"weights": None, "weights_backbone": None, "num_classes": 4}
SMALL = {"min_size": 64, "max_size": 96}
DETECTORS = {  # numbers of replaced and of kept convolutions
    "retinanet_resnet50_fpn": (SMALL, 32, 0),  # 17 of the backbone, 5 of the pyramid, 5 of each head
    "fasterrcnn_mobilenet_v3_large_320_fpn": (SMALL, 4, 15),
    "ssdlite320_mobilenet_v3_large": ({}, 1, 31),
}


def targets():
    return [
        {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[10.0, 4, 50, 30], [3, 3, 20, 20]]), "labels": torch.tensor([1, 2])},
    ]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_converted_detector_trains_and_detects(name):
    torch.manual_seed(0)
    options, replaced, kept = DETECTORS[name]
    model = getattr(detection, name)(**OPTIONS, **options)
    converted = sasa.convert(model, kernel_size=3, num_heads=2, grouped="keep")
    assert len(converted.conversion.replacements) == replaced
    assert len(converted.conversion.kept) == kept
    spatial = [m for m in converted.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    assert len(spatial) == kept
    assert all(m.groups > 1 for m in spatial)

    images = [torch.rand(3, 64, 80), torch.rand(3, 50, 64)]
    losses = converted.train()(images, targets())
    assert len(losses) >= 2
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for key, parameter in converted.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    with torch.no_grad():
        found = converted.eval()(images)
    assert len(found) == 2
    for boxes in found:
        assert len(boxes["boxes"]) == len(boxes["labels"]) == len(boxes["scores"]) > 0
        assert boxes["boxes"].isfinite().all()
        assert boxes["scores"].isfinite().all()


def test_layers_of_the_heads_stay_shared_over_the_levels():
    torch.manual_seed(0)
    model = detection.retinanet_resnet50_fpn(**OPTIONS, **SMALL)
    converted = sasa.convert(model, kernel_size=3, num_heads=2, where="head.*")
    layers = [m for m in converted.modules() if isinstance(m, sasa.LocalAttention2d)]
    assert len(layers) == len(converted.conversion.replacements) == 10  # one each, and not one for each of 5 levels
    assert not any(isinstance(m, FittedAttention2d) for m in converted.modules())
    calls = []
    layer = converted.head.classification_head.cls_logits
    layer.register_forward_hook(lambda module, args, y: calls.append(tuple(y.shape[2:])))
    with torch.no_grad():
        converted.eval()([torch.rand(3, 64, 64)])
    assert calls == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]


def test_grouped_convolutions_of_a_detector_are_an_error():
    model = detection.ssdlite320_mobilenet_v3_large(**OPTIONS)
    with pytest.raises(sasa.errors.ArgumentError, match="31 of 32 convolutions have groups > 1"):
        sasa.convert(model)


def test_the_prior_of_the_focal_loss_stays():
    """Without it the first loss would be some twenty times as large."""
    torch.manual_seed(0)
    model = detection.retinanet_resnet50_fpn(**OPTIONS, **SMALL)
    images = [torch.rand(3, 64, 80), torch.rand(3, 50, 64)]
    before = model.train()(images, targets())["classification"].item()
    converted = sasa.convert(model, kernel_size=3, num_heads=2, padding="mask")
    after = converted.train()(images, targets())["classification"].item()
    assert before < 3
    assert after < 2 * before


def test_a_bias_is_added_as_before():
    conv = nn.Conv2d(4, 8, 3, padding=1)
    layer = sasa.convert(conv, num_heads=2, padding="mask")
    zeros = torch.zeros(1, 4, 5, 6)
    torch.testing.assert_close(layer(zeros), conv(zeros))
