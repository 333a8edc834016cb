"""`sasa.convert`: what is replaced, what is kept, what is refused, and that real networks still run."""

import copy
import dataclasses
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sasa
from sasa import LocalAttention2d
from sasa.errors import ArgumentError
from sasa.nn.convert import Conversion, FittedAttention2d, Kept, Replacement

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def conv(into: int = 16, out: int = 16, kernel=3, **options) -> nn.Conv2d:
    if "padding" not in options:
        options["padding"] = kernel // 2
    return nn.Conv2d(into, out, kernel, **options)


def spatial(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]


def attentions(model: nn.Module) -> list[LocalAttention2d]:
    return [module for module in model.modules() if isinstance(module, LocalAttention2d)]


def quietly(model: nn.Module, **options) -> nn.Module:
    """Converted; warnings of heads are the business of tests of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sasa.convert(model, **options)


# The layer


def test_takes_channels_bias_and_options_of_the_convolution():
    converted = sasa.convert(
        nn.Sequential(conv(16, 32, stride=2, bias=False), conv(32, 48)),
        kernel_size=5,
        num_heads=4,
        padding="mask",
        position="absolute",
    )
    first, second = converted
    assert type(first) is type(second) is LocalAttention2d
    assert (first.in_channels, first.out_channels, first.stride, first.kernel_size) == (16, 32, 2, 5)
    assert (second.in_channels, second.out_channels, second.stride) == (32, 48, 1)
    assert first.qkv.bias is None
    assert second.qkv.bias is not None
    assert {(m.num_heads, m.padding, m.position) for m in (first, second)} == {(4, "mask", "absolute")}


def test_original_is_untouched_and_the_rest_copied_with_its_weights():
    network = nn.Sequential(conv(), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
    before = copy.deepcopy(network.state_dict())
    converted = sasa.convert(network)
    for parameter in converted.parameters():
        nn.init.constant_(parameter, 7.0)
    assert spatial(network) == ["0"]
    assert not hasattr(network, "conversion")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    fresh = sasa.convert(network)
    assert torch.equal(fresh[2].weight, network[2].weight)
    assert fresh[2].weight is not network[2].weight


def test_pointwise_convolutions_stay():
    converted = sasa.convert(nn.Sequential(conv(), nn.Conv2d(16, 4, 1, stride=2)))
    assert type(converted[1]) is nn.Conv2d
    assert converted.conversion.kept == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_device_dtype_and_mode(dtype):
    network = nn.Sequential(conv(), conv()).to(dtype)
    network[0].eval()
    first, second = sasa.convert(network)
    assert {p.dtype for p in first.parameters()} == {dtype}
    assert (first.training, first.qkv.training, second.training) == (False, False, True)
    on_meta = sasa.convert(nn.Sequential(nn.Conv2d(16, 16, 2, 2, device="meta")))
    assert {p.device.type for p in on_meta.parameters()} == {"meta"}


def test_layers_in_place_of_frozen_convolutions_are_trainable():
    network = nn.Sequential(conv(), nn.BatchNorm2d(16)).requires_grad_(False)
    converted = sasa.convert(network)
    assert all(p.requires_grad for p in converted[0].parameters())
    assert not any(p.requires_grad for p in converted[1].parameters())


def test_a_shared_convolution_stays_shared():
    shared = conv()
    network = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": conv()})
    network.also = [shared]  # not registered, used all the same
    for where, count in ((None, 2), ("b.0", 1)):
        converted = sasa.convert(network, where=where)
        assert isinstance(converted["a"], LocalAttention2d)
        assert converted["a"] is converted["b"][0] is converted.also[0]
        assert len(attentions(converted)) == len(converted.conversion.replacements) == count
        assert converted.conversion.replacements[0].before == "Conv2d 16 -> 16, 3 x 3, also b.0"


def test_the_network_may_be_a_convolution():
    converted = sasa.convert(conv(stride=2))
    assert isinstance(converted, LocalAttention2d)
    assert converted(torch.randn(2, 16, 5, 6)).shape == (2, 16, 3, 3)
    assert converted.conversion.replacements[0].name == ""
    assert "the network itself" in str(converted.conversion)


def test_a_seed_gives_the_same_layers():
    network = nn.Sequential(*(conv() for _ in range(8)))
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(sasa.convert(network).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_state_and_pickle_come_back(tmp_path: Path):
    network = nn.Sequential(conv(), nn.Conv2d(16, 16, 2, 2))
    converted = sasa.convert(network)
    again = sasa.convert(network)
    again.load_state_dict(converted.state_dict())
    torch.save(converted, tmp_path / "network.pt")
    whole = torch.load(tmp_path / "network.pt", weights_only=False)
    x = torch.randn(2, 16, 6, 7)
    assert torch.equal(again(x), converted(x))
    assert torch.equal(whole(x), converted(x))
    assert whole.conversion == converted.conversion


# Sizes


@settings(max_examples=60, deadline=None)
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
def test_wraps_only_where_the_size_asks_for_it(layer, kind):
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


def test_a_fitted_layer_answers_for_its_convolution():
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
    x = torch.randn(1, 3, 31, 65)
    torch.testing.assert_close(exported.module()(x), converted(x))


# Other code may change a convolution's output in place


@pytest.mark.parametrize("layer", [conv(), nn.Conv2d(16, 16, 3, padding=2), nn.Conv2d(16, 16, 3), conv(stride=2)])
def test_in_place_operations_may_follow(layer):
    converted = sasa.convert(nn.Sequential(layer, nn.ReLU(inplace=True)), kernel_size=3)
    plain = copy.deepcopy(converted)
    plain[1].inplace = False
    x = torch.randn(2, 16, 6, 7)
    got, want = converted(x), plain(x)
    assert torch.equal(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    for one, other in zip(converted.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


# Heads


@pytest.mark.parametrize(
    ("channels", "asked", "heads"), [(104, 8, 4), (40, 8, 10), (440, 8, 10), (60, 8, 6), (20, 3, 2), (2, 8, 1)]
)
def test_the_nearest_number_of_heads_of_even_width(channels, asked, heads):
    sentence = (
        f"1: {channels} channels do not divide into num_heads ({asked}) heads of an even width and get {heads} heads"
    )
    with pytest.warns(UserWarning, match=re.escape(sentence)):
        converted = sasa.convert(nn.Sequential(nn.ReLU(), conv(3, channels)), num_heads=asked)
    assert converted[1].num_heads == heads
    assert converted[1].position == "relative"


def test_an_odd_number_of_channels_has_no_relative_positions():
    sentence = (
        "head: 255 channels do not divide into num_heads (8) heads and get 5 heads and cannot be halved for rows and "
        'columns and get position="none" in place of "relative"'
    )
    network = nn.Sequential()
    network.add_module("head", conv(4, 255))
    with pytest.warns(UserWarning, match=re.escape(sentence)):
        converted = sasa.convert(network, kernel_size=3)
    assert (converted.head.num_heads, converted.head.position) == (5, "none")
    assert converted.conversion.replacements[0].after.endswith("3 x 3, 5 heads, position none")
    with pytest.warns(UserWarning, match="1 channels cannot be halved"):
        assert sasa.convert(conv(4, 1), num_heads=1).position == "none"


def test_without_relative_positions_heads_may_be_odd():
    assert sasa.convert(conv(4, 15), num_heads=5, position="none").num_heads == 5
    with pytest.warns(UserWarning, match=r"15 channels do not divide into num_heads \(8\) heads and get 5 heads"):
        assert sasa.convert(conv(4, 15), position="absolute").num_heads == 5


def test_one_warning_for_each_number_of_channels():
    with pytest.warns(UserWarning, match="channels do not divide") as caught:
        sasa.convert(nn.Sequential(conv(4, 20), conv(20, 20), conv(20, 12), conv(12, 16)))
    assert [str(w.message).split(" channels")[0] for w in caught] == ["0, 1: 20", "2: 12"]
    assert {Path(w.filename).name for w in caught} == {"test_convert.py"}


# Which


@pytest.mark.parametrize(
    ("where", "replaced"),
    [
        ("body.*", ["body.0", "body.1"]),
        (["stem", "*.1"], ["stem", "body.1"]),
        (("stem",), ["stem"]),
        (lambda name, layer: layer.in_channels > 3, ["body.0", "body.1"]),
        (None, ["stem", "body.0", "body.1"]),
    ],
)
def test_where_chooses(where, replaced):
    network = nn.ModuleDict({"stem": conv(3, 16), "body": nn.Sequential(conv(), conv(stride=2))})
    converted = sasa.convert(network, where=where)
    assert [r.name for r in converted.conversion.replacements] == replaced
    assert spatial(converted) == [name for name in ("stem", "body.0", "body.1") if name not in replaced]
    assert {k.reason for k in converted.conversion.kept} <= {"not chosen by where"}


def test_where_sees_the_convolutions_of_the_original():
    network = nn.Sequential(conv(), conv())
    assert spatial(sasa.convert(network, where=lambda _, layer: layer is network[1])) == ["0"]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("layer9.*", "where='layer9.*' matches none of the 8 convolutions: 0, 1, 2, 3, 4, 5 and 2 more"),
        (["0", "nothing"], "where='nothing' matches none of the 8"),
        (lambda name, layer: False, "where chooses none of the 8 convolutions: 0, 1, 2, 3, 4, 5 and 2 more"),
        (3, "where must be a function of (name, convolution) or patterns of names, got 3"),
        ([], "where must be a function of (name, convolution) or patterns of names, got []"),
        ([3], "where must be a function of (name, convolution) or patterns of names, got [3]"),
    ],
)
def test_where_that_chooses_nothing(where, sentence):
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(nn.Sequential(*(conv() for _ in range(8))), where=where)


# Groups, and what is refused


def test_grouped_convolutions():
    network = nn.Sequential(conv(), conv(groups=16), conv(groups=2))
    sentence = (
        'attention mixes all channels, and 2 of 3 convolutions have groups > 1: 1, 2; choose grouped="replace" (full '
        'attention in their place), grouped="keep", or leave them out with where='
    )
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(network)
    assert spatial(sasa.convert(network, grouped="replace")) == []
    assert spatial(sasa.convert(network, where="0")) == ["1", "2"]
    kept = sasa.convert(network, grouped="keep")
    assert spatial(kept) == ["1", "2"]
    assert torch.equal(kept[1].weight, network[1].weight)
    assert kept.conversion.kept == (
        Kept("1", "Conv2d 16 -> 16, 3 x 3, groups 16", 'grouped="keep"'),
        Kept("2", "Conv2d 16 -> 16, 3 x 3, groups 2", 'grouped="keep"'),
    )


def test_only_grouped_convolutions_to_keep():
    with pytest.raises(ArgumentError, match='grouped="keep" leaves nothing to convert: all 1 chosen have groups > 1'):
        sasa.convert(nn.Sequential(conv(groups=16), conv()), where="0", grouped="keep")


def test_dilation_is_refused_by_name():
    network = nn.Sequential(conv(), conv(dilation=2))
    sentence = (
        "1 has dilation (2, 2) with kernel_size (3, 3): attention looks at a window without holes; leave it out with "
        "where="
    )
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(network)
    assert spatial(sasa.convert(network, where=lambda _, layer: layer.dilation == (1, 1))) == ["1"]
    assert spatial(sasa.convert(nn.Sequential(conv(), conv(groups=2, dilation=2)), grouped="keep")) == ["1"]


def test_lazy_convolutions_are_refused():
    with pytest.raises(ArgumentError, match="not yet initialised, run the network once before: 0"):
        sasa.convert(nn.Sequential(nn.LazyConv2d(8, 3)))


class Doubling(nn.Conv2d):
    def forward(self, input):
        return F.interpolate(super().forward(input), scale_factor=2)


class Failing(nn.Conv2d):
    def forward(self, input):
        raise RuntimeError("needs a mask")


def test_subclasses_that_are_no_convolutions_are_refused():
    sentence = "0 is a Doubling that maps a side of 6 to shape (1, 8, 12, 12), of 7 to (1, 8, 14, 14): no padding"
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(nn.Sequential(Doubling(4, 8, 3, padding=1)))
    with pytest.raises(ArgumentError, match=r"0 is a Failing whose forward could not be tried \(needs a mask\)"):
        sasa.convert(nn.Sequential(Failing(4, 8, 3)))


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Sequential(nn.Conv2d(3, 3, 1)), LocalAttention2d(8, 16)])
def test_nothing_to_convert(model):
    sentence = f"{type(model).__name__} has no nn.Conv2d with a kernel larger than 1: nothing to convert"
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel_size": 4}, "kernel_size (4) must be odd"),
        ({"num_heads": 0}, "num_heads must be a positive integer, got 0"),
        ({"grouped": "yes"}, "grouped must be one of refuse, replace, keep; got 'yes'"),
        ({"padding": 1}, "padding (1) is not a number of pixels here"),
        ({"position": "learned"}, "position must be one of relative, absolute, none; got 'learned'"),
    ],
)
def test_options_that_do_not_fit(options, sentence):
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(conv(), **options)


# The report


def test_conversion_tells_what_was_done():
    network = nn.Sequential(conv(3, 16, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 2, (2, 1)), conv(groups=4))
    converted = sasa.convert(network, grouped="keep", kernel_size=5, num_heads=4)
    first, second = 3 * 16 * 3 + 2 * 4 * 5 * 2, 3 * 16 * 17 + 2 * 4 * 5 * 2
    assert converted.conversion == Conversion(
        (
            Replacement("0", "Conv2d 3 -> 16, 3 x 3", "LocalAttention2d 3 -> 16, 5 x 5, 4 heads", 432, first),
            Replacement(
                "2",
                "Conv2d 16 -> 16, 2 x 2, stride 2 x 1",
                "FittedAttention2d 16 -> 16, 5 x 5, stride 2 x 1, 4 heads",
                1040,
                second,
            ),
        ),
        (Kept("3", "Conv2d 16 -> 16, 3 x 3, groups 4", 'grouped="keep"'),),
        432 + 1040 + 592,
        first + second + 592,
    )
    table = str(converted.conversion).splitlines()
    assert len(table) == 5
    assert re.split("  +", table[1]) == [
        "0",
        *dataclasses.astuple(converted.conversion.replacements[0])[1:3],
        "432",
        "224",
    ]
    assert table[3].endswith('kept: grouped="keep"')
    assert re.split("  +", table[4]) == ["whole network", "2 replaced, 1 kept", "2,064", f"{first + second + 592:,}"]


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
    """Sizes of the maps after each layer that is, or was, a spatial convolution, of an odd picture, in order."""
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
