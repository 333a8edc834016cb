"""`sasa.convert` keeps the sizes of maps, for single layers and in real networks; detectors still train and detect."""

import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import detection

import sasa
from convolutions import attentions, spatial
from helpers import OPEN_REMAINDERS
from sasa import LocalAttention2d
from sasa.errors import ArgumentError
from sasa.nn.fitted import FittedAttention2d

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def quietly(model: nn.Module, **options) -> nn.Module:
    """The converted model, without warnings about heads, which other tests check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sasa.convert(model, **options)


# A layer alone


@settings(max_examples=60)
@given(st.data())
def test_has_the_size_of_the_convolution(data):
    pair = lambda least, most: data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))  # noqa: E731
    kernel, stride, padding, size = pair(1, 6), pair(1, 4), pair(0, 5), pair(1, 12)
    kernel = (max(2, kernel[0]), kernel[1])
    fits = all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True))
    layer = nn.Conv2d(2, 4, kernel, stride, padding)
    converted = sasa.convert(layer, kernel_size=3, num_heads=2)
    x = torch.randn(1, 2, *size)
    if fits:
        want = layer(x).shape
        assert converted(x).shape == want
        assert converted(x[0]).shape == want[1:]
    else:
        with pytest.raises(ArgumentError, match=re.escape(f"the map {size} is smaller than")):
            converted(x)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's, of the convolution
@pytest.mark.filterwarnings("ignore:.*padding_mode.* is not carried over")
@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(4, 8, 7, 2, 3), LocalAttention2d),
        (nn.Conv2d(4, 8, 2, padding="same"), LocalAttention2d),
        (nn.Conv2d(4, 8, (1, 5), padding=(0, 2)), LocalAttention2d),
        (nn.Conv2d(4, 8, (3, 1), padding=(1, 0), dilation=(1, 3)), LocalAttention2d),
        (nn.Conv2d(4, 8, 3, (2, 1), 1), FittedAttention2d),
        (nn.Conv2d(4, 8, 4, 4), FittedAttention2d),
        (nn.Conv2d(4, 8, 3, padding="valid"), FittedAttention2d),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), LocalAttention2d),
    ],
)
def test_wraps_only_where_the_size_requires_it(layer, kind):
    converted = sasa.convert(layer, kernel_size=3, num_heads=2)
    x = torch.randn(1, 4, 9, 11)
    assert type(converted) is kind
    assert converted(x).shape == layer(x).shape


def test_a_patch_is_a_pooling_window():
    layer = sasa.convert(nn.Conv2d(3, 8, 4, 4), kernel_size=3, num_heads=2)
    x = torch.randn(1, 3, 11, 9)
    assert torch.equal(layer(x), F.avg_pool2d(layer.attention(x), 4))


def test_the_border_is_cropped_alike_on_both_sides():
    layer = sasa.convert(nn.Conv2d(3, 8, 5), kernel_size=3, num_heads=2)
    x = torch.randn(1, 3, 8, 9)
    assert torch.equal(layer(x), layer.attention(x)[:, :, 2:-2, 2:-2])


def test_a_fitted_layer_has_the_attributes_of_its_convolution():
    layer = sasa.convert(nn.Conv2d(3, 8, (4, 2), (4, 2)), num_heads=2)
    assert (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) == (3, 8, (4, 2), (4, 2))
    assert layer.weight is layer.attention.qkv.weight
    assert "kernel_size=(4, 2), stride=(4, 2), trim=(3, 1)" in repr(layer)


@pytest.mark.parametrize("kernel_and_stride", [(3, 2), (4, 3), (2, 4)])
@pytest.mark.parametrize("name", ["Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame", "StdConv2d", "ScaledStdConv2d"])
def test_subclasses_with_their_own_padding(name, kernel_and_stride):
    layer = getattr(timm.layers, name)(4, 8, *kernel_and_stride)
    converted = sasa.convert(layer, kernel_size=3, num_heads=2)
    for side in range(16, 20):
        x = torch.randn(1, 4, side, side + 1)
        assert converted(x).shape == layer(x).shape
        if name.endswith("Same"):
            assert layer(x).shape[2] == math.ceil(side / kernel_and_stride[1])


def test_sizes_stay_open_in_an_exported_graph():
    network = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 3, (2, 1), 2), nn.Conv2d(16, 16, 3))
    converted = sasa.convert(network, kernel_size=3).eval()
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(
        converted, (torch.randn(2, 3, 40, 44),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    )
    sizes = [(32, 64)]
    if OPEN_REMAINDERS:
        sizes.append((31, 65))
    for height, width in sizes:
        x = torch.randn(1, 3, height, width)
        torch.testing.assert_close(exported.module()(x), converted(x))


# Real networks

NETWORKS = [
    ("torchvision", "resnet18", 17),
    ("torchvision", "resnet50", 17),
    ("torchvision", "regnet_x_400mf", 23),
    ("torchvision", "regnet_y_400mf", 17),
    ("torchvision", "vgg11_bn", 8),
    ("torchvision", "squeezenet1_1", 9),
    ("timm", "resnet18", 17),
    ("timm", "convnext_atto", 16),
    ("timm", "davit_tiny", 28),
    ("timm", "tf_efficientnet_b0", 17),
]


@pytest.mark.parametrize(("library", "name", "count"), NETWORKS, ids=[f"{lib}-{name}" for lib, name, _ in NETWORKS])
def test_real_networks_run_forward_and_backward(library, name, count):
    torch.manual_seed(0)
    if library == "timm":
        network = timm.create_model(name, num_classes=5)
    else:
        network = torchvision.models.get_model(name, num_classes=5, weights=None)
    if name == "vgg11_bn":
        network.classifier = nn.Linear(512 * 7 * 7, 5)  # the true one is a hundred million parameters
    converted = quietly(network, kernel_size=3, grouped="replace")
    assert spatial(converted) == []
    assert len(attentions(converted)) == len(converted.conversion.replacements) == count
    assert converted.conversion.parameters_after == sum(p.numel() for p in converted.parameters())
    assert _maps(network) == _maps(converted)

    y = converted(torch.randn(2, 3, 48, 48))
    assert y.shape == (2, 5)
    F.cross_entropy(y, torch.tensor([1, 3])).backward()
    assert [key for key, p in converted.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@torch.no_grad()
def _maps(network: nn.Module) -> list[torch.Size]:
    """Sizes of the maps after each spatial layer, in order, for an image of odd size."""
    shapes: list[torch.Size] = []
    layers = [m for m in network.modules() if isinstance(m, LocalAttention2d | FittedAttention2d)]
    layers = [m for m in layers if not any(m is f.attention for f in layers if isinstance(f, FittedAttention2d))]
    layers += [network.get_submodule(name) for name in spatial(network)]
    hooks = [layer.register_forward_hook(lambda _m, _i, y: shapes.append(y.shape)) for layer in layers]
    training = network.training
    network.eval()(torch.randn(1, 3, 37, 46))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return shapes


# torchvision's detectors

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
