"""The networks of the paper: sizes, shapes, options, and errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sasa
from detectors import on_meta
from sasa.errors import ArgumentError
from sasa.models import FeaturePyramid, ResNetConfig
from sasa.models.blocks import Bottleneck
from sasa.models.config import VARIANTS
from sasa.models.retinanet_config import DETECTORS

# Tables 1, 3 and 6, parameters in millions. Some cells look truncated, hence 0.7 % and not the last digit.
PARAMETERS = {
    "resnet26": 13.7,
    "sasa_resnet26_convstem": 10.3,
    "sasa_resnet26": 10.3,
    "resnet38": 19.6,
    "sasa_resnet38_convstem": 14.1,
    "sasa_resnet38": 14.1,
    "resnet50": 25.6,
    "sasa_resnet50_convstem": 18.0,
    "sasa_resnet50": 18.0,
    "sasa_resnet50_c1a234": 18.1,
    "sasa_resnet50_c12a34": 18.5,
    "sasa_resnet50_c123a4": 20.8,
    "sasa_resnet50_c234a1": 25.5,
    "sasa_resnet50_c34a12": 25.0,
    "sasa_resnet50_c4a123": 22.7,
}
STEMS = ["attention", "conv", "small_attention", "small_conv"]
STEM_OPTIONS = {  # names of a network -> of its stem
    "stem_values": "values",
    "stem_mixtures": "num_mixtures",
    "stem_block": "block_size",
    "stem_activation": "activation",
}
SMALL = {"layers": (1, 1, 1, 1), "width": 0.125, "num_heads": 4, "kernel_size": 5, "num_classes": 10}


def small(name="sasa_resnet26", **options):
    """A network of four blocks with 8 to 64 channels inside."""
    return sasa.create_model(name, **{**SMALL, **options})


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def step(network, images):
    """One forward and backward pass."""
    target = torch.arange(len(images)) % network.num_classes
    loss = F.cross_entropy(network(images), target)
    loss.backward()
    return loss


def test_every_network_is_in_the_tables():
    assert sorted(PARAMETERS) == sorted(VARIANTS)
    assert sasa.list_models() == sorted([*VARIANTS, *DETECTORS])
    assert sasa.list_models("resnet*") == ["resnet26", "resnet38", "resnet50"]
    assert sasa.list_models("nothing*") == []


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_at_full_width_are_the_papers(name):
    assert count(on_meta(name)) / 1e6 == pytest.approx(PARAMETERS[name], rel=0.007)


def test_parameters_of_the_ablations_are_the_papers():
    assert count(on_meta("sasa_resnet50_convstem", content=False)) / 1e6 == pytest.approx(16.7, rel=0.007)  # Table 6
    for position in ("none", "absolute"):  # Table 5
        assert count(on_meta("sasa_resnet50_convstem", position=position)) / 1e6 == pytest.approx(18.0, rel=0.007)
    for kernel_size in (3, 5, 9, 11):  # Table 4
        assert count(on_meta("sasa_resnet50_convstem", kernel_size=kernel_size)) / 1e6 == pytest.approx(18, rel=0.007)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_step_moves_every_parameter(name):
    torch.manual_seed(0)
    network = sasa.create_model(name, num_classes=10, width=0.25, kernel_size=3, zero_init_residual=False)
    loss = step(network, torch.randn(2, 3, 64, 64))
    assert loss.isfinite()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("stem", STEMS)
def test_a_step_at_the_start_of_training_is_finite(stem):
    network = small(stem=stem)
    step(network, torch.randn(2, 3, 32, 32))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (31, 1), (2, 3), (13, 17), (33, 47), (64, 97)], ids=str)
@pytest.mark.parametrize("stem", STEMS)
def test_any_size_of_image(stem, size):
    network = small(stem=stem, groups="caca").eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = network.forward_intermediates(images, intermediates_only=True)
        assert network(images).isfinite().all()
    for features, info in zip(maps, network.feature_info, strict=True):
        expected = [math.ceil(side / info["reduction"]) for side in size]
        assert features.shape == (2, info["num_chs"], *expected)


def test_an_empty_batch():
    assert small().eval()(torch.randn(0, 3, 32, 32)).shape == (0, 10)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name.startswith("sasa")])
def test_full_attention_has_no_spatial_convolution(name):
    spatial = [module for module in convolutions(on_meta(name)) if max(module.kernel_size) > 1]
    groups, stem = VARIANTS[name]["groups"], VARIANTS[name]["stem"]
    blocks = sum(n for n, kind in zip(VARIANTS[name]["layers"], groups, strict=True) if kind == "c")
    assert len(spatial) == blocks + (stem == "conv")
    if name in ("sasa_resnet26", "sasa_resnet38", "sasa_resnet50"):
        assert not spatial


def test_the_small_attention_stem_has_no_spatial_convolution():
    assert all(max(module.kernel_size) == 1 for module in convolutions(small(stem="small_attention")))


@pytest.mark.parametrize(
    ("width", "num_heads", "stem", "groups"),
    [
        (1.0, 8, 64, (64, 128, 256, 512)),
        (1, 4, 64, (64, 128, 256, 512)),
        (0.25, 8, 16, (16, 32, 64, 128)),
        (0.3, 8, 16, (16, 32, 80, 160)),
        (0.01, 8, 16, (16, 16, 16, 16)),
        (1.0, 3, 72, (66, 126, 258, 510)),
        (0.125, 1, 8, (8, 16, 32, 64)),
    ],
)
def test_widths_are_rounded_to_whole_heads(width, num_heads, stem, groups):
    config = ResNetConfig((1, 1, 1, 1), width=width, num_heads=num_heads)
    assert (config.stem_channels, config.group_widths) == (stem, groups)
    network = on_meta("sasa_resnet26", width=width, num_heads=num_heads)
    assert [info["num_chs"] for info in network.feature_info] == [stem, *(4 * width for width in groups)]


def test_a_width_that_was_rounded_runs():
    assert small(width=0.2, num_heads=3).eval()(torch.randn(1, 3, 20, 20)).shape == (1, 10)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("in_chans", [1, 4])
def test_channels_of_the_image(stem, in_chans):
    network = small(stem=stem, in_chans=in_chans).eval()
    assert network.in_chans == in_chans
    assert network(torch.randn(1, in_chans, 20, 20)).shape == (1, 10)


def test_an_image_with_other_channels_is_an_error():
    with pytest.raises(ArgumentError, match=r"the image must be \(batch, 3, height, width\), got \(1, 1, 20, 20\)"):
        small()(torch.randn(1, 1, 20, 20))


def test_no_classes_give_features():
    images = torch.randn(2, 3, 40, 40)
    assert small(num_classes=0).eval()(images).shape == (2, 256)
    assert small(num_classes=0, global_pool="").eval()(images).shape == (2, 256, 2, 2)
    assert isinstance(small(num_classes=0).get_classifier(), nn.Identity)


@pytest.mark.parametrize(
    ("stem", "layers", "reduction"),
    [
        ("attention", ["AttentionStem"], 4),
        ("conv", ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"], 4),
        ("small_attention", ["LocalAttention2d", "BatchNorm2d", "ReLU"], 1),
        ("small_conv", ["Conv2d", "BatchNorm2d", "ReLU"], 1),
    ],
)
def test_stems_by_name(stem, layers, reduction):
    network = small(stem=stem)
    parts = list(network.stem) if isinstance(network.stem, nn.Sequential) else [network.stem]
    assert [type(part).__name__ for part in parts] == layers
    assert [info["reduction"] for info in network.feature_info] == [reduction * n for n in (1, 1, 2, 4, 8)]


@pytest.mark.parametrize(
    "options",
    [
        {"position": "absolute"},
        {"position": "none"},
        {"content": False},
        {"padding": "mask"},
        {"kernel_size": 1},
        {"kernel_size": 11},
        {"num_heads": 2},
    ],
    ids=str,
)
def test_options_reach_every_attention_layer(options):
    network = small(stem="small_attention", **options)
    layers = [module for module in network.modules() if isinstance(module, sasa.LocalAttention2d)]
    assert len(layers) == 5
    for name, value in options.items():
        assert all(getattr(layer, name) == value for layer in layers[1:])
        assert name == "num_heads" or getattr(layers[0], name) == value  # the stem has its own heads
    step(network, torch.randn(2, 3, 9, 9))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"stem_values": "pointwise"},
        {"stem_values": "convolution"},
        {"stem_mixtures": 2},
        {"stem_block": 3},
        {"stem_activation": False},
        {"position": "none"},
        {"content": False},
    ],
    ids=str,
)
def test_options_reach_the_attention_stem(options):
    network = small(**options)
    for name, value in options.items():
        assert getattr(network.stem, STEM_OPTIONS.get(name, name)) == value
    step(network, torch.randn(2, 3, 24, 24))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("groups", ["ccaa", ("c", "c", "a", "a"), ["c", "c", "a", "a"]])
def test_groups_as_a_string_or_a_sequence(groups):
    network = small(groups=groups)
    kinds = [type(group[0].spatial) for group in network.groups]
    assert kinds == [nn.Conv2d, nn.Conv2d, sasa.LocalAttention2d, sasa.LocalAttention2d]
    assert network.config.groups == "ccaa"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernal_size": 3}, "'kernal_size' is not an option of a network; did you mean 'kernel_size'"),
        ({"zzz": 3}, "'zzz' is not an option of a network$"),
        ({"stem": "covn"}, "stem must be one of attention, conv, small_attention, small_conv; got 'covn'"),
        ({"groups": "aab"}, "groups must be four letters.*got 'aab'"),
        ({"groups": "aabb"}, "groups must be four letters.*got 'aabb'"),
        ({"groups": (1, 2, 3, 4)}, "groups must be four letters.*got '1234'"),
        ({"groups": 4}, "groups must be four letters.*got 4"),
        ({"layers": (1, 1, 1)}, r"layers must be four numbers of blocks of at least 1; got \(1, 1, 1\)"),
        ({"layers": (1, 1, 0, 1)}, "layers must be four numbers of blocks"),
        ({"layers": 5}, "layers must be four numbers of blocks"),
        (
            {"layers": (99999999, 1, 1, 1)},
            r"layers must be at most 1000 blocks in a group; got \(99999999, 1, 1, 1\)",
        ),
        ({"kernel_size": 4}, r"kernel_size \(4\) must be odd.*use 3 or 5"),
        ({"kernel_size": "7"}, "kernel_size must be a positive odd integer, got '7'"),
        ({"padding": 1}, r"padding \(1\) is not a number of pixels here"),
        ({"padding": "same"}, 'padding must be "zeros" or "mask", got \'same\''),
        ({"position": "learned"}, "position must be one of relative, absolute, none; got 'learned'"),
        ({"content": False, "position": "none"}, "there are no logits"),
        ({"content": "yes"}, "content must be True or False, got 'yes'"),
        ({"width": 0}, "width must be a positive number, got 0"),
        ({"width": "abc"}, "width must be a positive number, got 'abc'"),
        ({"width": math.inf}, "width must be a positive number, got inf"),
        ({"width": math.nan}, "width must be a positive number, got nan"),
        ({"num_classes": -1}, "num_classes must be an integer of at least 0, got -1"),
        ({"num_classes": 2.5}, "num_classes must be an integer of at least 0, got 2.5"),
        ({"in_chans": 0}, "in_chans must be an integer of at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be an integer of at least 1, got 0"),
        ({"num_heads": True}, "num_heads must be an integer of at least 1, got True"),
        ({"stem_block": 0}, "stem_block must be an integer of at least 1, got 0"),
        ({"stem_mixtures": "5"}, "stem_mixtures must be an integer of at least 1, got '5'"),
        ({"stem_values": "conv"}, "stem_values must be one of mixture, pointwise, convolution; got 'conv'"),
        ({"global_pool": "max"}, "global_pool must be \"avg\".*got 'max'"),
        ({"global_pool": ""}, "got '' with num_classes=1000"),
    ],
    ids=str,
)
def test_impossible_options_are_errors(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        sasa.create_model("sasa_resnet26", **options)


def test_unknown_names_list_similar_ones():
    with pytest.raises(
        ValueError, match=r"'sasa_resnet5' is neither the name of a network nor.*try one of: .*sasa_resnet50"
    ):
        sasa.create_model("sasa_resnet5")
    with pytest.raises(ValueError, match="try one of: sasa_resnet26, "):  # no name is similar
        sasa.create_model("??")


def test_none_means_the_default():
    assert small(padding=None, stem=None).config == small().config


@pytest.mark.parametrize("kind", ["a", "c"])
def test_zero_init_makes_each_block_its_shortcut(kind):
    for network, same in ((small(groups=kind * 4), True), (small(groups=kind * 4, zero_init_residual=False), False)):
        blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
        assert len(blocks) == 4
        for block in blocks:
            x = torch.randn(2, block.down.in_channels, 7, 6)
            block.eval()
            assert torch.equal(block(x), F.relu(block.shortcut(x))) is same


@pytest.mark.parametrize("name", ["resnet50", "sasa_resnet50"])
def test_the_spatial_operation_strides_and_not_the_1x1(name):
    network = on_meta(name)
    for number, group in enumerate(network.groups):
        for index, block in enumerate(group):
            stride = 2 if number > 0 and index == 0 else 1
            assert block.down.stride == block.up.stride == (1, 1)
            assert block.spatial.stride in (stride, (stride, stride))
            if index == 0:
                assert block.shortcut[0].stride == (stride, stride)
            else:
                assert isinstance(block.shortcut, nn.Identity)


@pytest.mark.parametrize("out_indices", [(1, 2, 3, 4), (0,), (2, 3), (0, 4), (-1,), (4, 2)], ids=str)
def test_feature_pyramid(out_indices):
    pyramid = small(features_only=True, out_indices=out_indices).eval()
    assert isinstance(pyramid, FeaturePyramid)
    maps = pyramid(torch.randn(2, 3, 65, 33))
    assert len(maps) == len(pyramid.channels) == len(pyramid.reductions) == len(out_indices)
    for features, channels, reduction in zip(maps, pyramid.channels, pyramid.reductions, strict=True):
        assert features.shape == (2, channels, math.ceil(65 / reduction), math.ceil(33 / reduction))
    last = max(pyramid.out_indices)
    assert pyramid.body.num_features == pyramid.body.head_hidden_size == max(pyramid.channels)
    for number, group in enumerate(pyramid.body.groups, start=1):
        assert (count(group) > 0) == (number <= last)
    assert count(pyramid.body.get_classifier()) == 0
    sum(features.sum() for features in maps).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_feature_pyramid_holds_the_networks_maps():
    network = small().eval()
    images = torch.randn(1, 3, 40, 40)
    expected = network.forward_intermediates(images, [1, 3], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(FeaturePyramid(network, (1, 3))(images), expected, strict=True))


@pytest.mark.parametrize("indices", [0, -1, 6, (), (5,), (-6,), (1, 9)], ids=str)
def test_maps_that_do_not_exist_are_an_error(indices):
    with pytest.raises(ArgumentError, match=r"indices \(.*\).* (must lie in 0 \(stem\) to 4|must be 1 to 5)"):
        small(features_only=True, out_indices=indices)


def test_another_classifier():
    network = small().double()
    network.reset_classifier(3)
    assert network.fc.weight.dtype == torch.float64
    assert network.fc.weight.shape == (3, 256)
    assert network.num_classes == network.config.num_classes == 3
    with pytest.raises(ArgumentError, match="global_pool must be"):
        network.reset_classifier(3, "")
    with pytest.raises(ArgumentError, match="num_classes must be an integer of at least 0, got -3"):
        network.reset_classifier(-3)
    assert network.num_classes == network.config.num_classes == 3


def test_dropout_is_for_training_only():
    network = small()
    network.drop_rate = 0.5
    features = torch.ones(4, 256, 2, 2)
    assert (network.train().forward_head(features, pre_logits=True) == 0).any()
    assert torch.equal(network.eval().forward_head(features, pre_logits=True), torch.ones(4, 256))


def test_weight_decay_spares_positions():
    network = small()
    spared = network.no_weight_decay()
    assert {"stem.nu", "stem.emb_row", "stem.rel_col", "layer4.0.spatial.rel_row"} <= spared
    assert spared <= dict(network.named_parameters()).keys()
    assert not any("weight" in name for name in spared)
    assert small("resnet26").no_weight_decay() == set()
