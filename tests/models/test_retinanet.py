"""Detectors by name: sizes and parts, order of outputs, errors, the effect of padding on the logits of an image."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import sasa
import sasa.timm
from detectors import KINDS, on_meta, small
from sasa.errors import ArgumentError
from sasa.models import boxes
from sasa.models.config import VARIANTS
from sasa.models.resnet import ResNet
from sasa.models.retinanet import Head
from sasa.models.retinanet_config import DETECTORS, LEVELS, RetinaNetConfig

# Table 2, parameters in millions; the last, with attention in the pyramid too, is not in the table.
PARAMETERS = {
    "retinanet_resnet50": 33.4,
    "retinanet_sasa_resnet50_convstem": 25.9,
    "retinanet_sasa_resnet50": 25.9,
    "retinanet_sasa_resnet50_convstem_attnheads": 22.0,
    "retinanet_sasa_resnet50_attnheads": 22.0,
    "retinanet_sasa_resnet50_convstem_attn": 20.06,
}


def spatial_convolutions(module):
    return sum(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in module.modules())


# Sizes and parts


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_at_full_width_are_the_papers(name):
    parameters = sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert parameters / 1e6 == pytest.approx(PARAMETERS[name], rel=0.001 if name.endswith("_attn") else 0.005)


@pytest.mark.parametrize("name", DETECTORS)
def test_spatial_convolutions_are_where_the_name_says(name):
    network = on_meta(name)
    options = VARIANTS[name.removeprefix("retinanet_").removesuffix("_attn").removesuffix("_attnheads")]
    blocks = sum(n for n, kind in zip(options["layers"], options["groups"], strict=True) if kind == "c")
    assert spatial_convolutions(network.backbone) == blocks + (options["stem"] == "conv")
    assert spatial_convolutions(network.pyramid) == (0 if name.endswith("_attn") else 5)
    heads = 0 if name.endswith(("_attn", "_attnheads")) else 5
    assert spatial_convolutions(network.classify) == spatial_convolutions(network.locate) == heads
    attention = [m for m in network.classify.modules() if isinstance(m, sasa.LocalAttention2d)]
    assert len(attention) == (0 if heads else 5)
    assert all((m.out_channels, m.kernel_size, m.num_heads) == (256, 7, 8) for m in attention)
    if not heads:
        assert network.classify.predict.kernel_size == network.locate.predict.kernel_size == (1, 1)


def test_options_of_the_backbone_reach_pyramid_and_heads():
    network = small(position="absolute", padding="mask")
    layers = [m for m in network.modules() if isinstance(m, sasa.LocalAttention2d)]
    assert len(layers) == 4 + 5 + 10  # blocks, pyramid, two heads
    assert {(m.kernel_size, m.num_heads, m.position, m.padding) for m in layers} == {(3, 2, "absolute", "mask")}
    assert network.pyramid.laterals[0].out_channels == network.config.channels == 24


def test_timm_does_not_list_detectors():
    assert timm.list_models("*retinanet_*") == []


def test_features_only_is_for_classifiers():
    with pytest.raises(ArgumentError, match="retinanet_resnet26 is a detector, and features_only is for classifiers"):
        small("retinanet_resnet26", features_only=True)


# Outputs


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (31, 1), (2, 3), (33, 47), (40, 100), (64, 97)], ids=str)
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_any_size_of_image(name, size):
    network = small(name).eval()
    outputs = network(torch.randn(2, 3, *size))
    expected = [tuple(math.ceil(side / stride) for side in size) for stride in network.config.strides]
    assert outputs.sizes == expected
    anchors = boxes.anchors(network.config, outputs.sizes, torch.device("cpu"))
    total = sum(map(len, anchors))
    assert total == 6 * sum(height * width for height, width in expected)
    assert outputs.logits.shape == (2, total, 3)
    assert outputs.deltas.shape == (2, total, 4)
    assert outputs.logits.isfinite().all()
    assert outputs.deltas.isfinite().all()


@torch.no_grad()
def test_nine_anchors_and_stems_that_do_not_shrink():
    network = small(anchors=9, stem="small_attention").eval()
    assert network.config.strides == (2, 4, 8, 16, 32)
    outputs = network(torch.randn(1, 3, 9, 14))
    assert outputs.sizes == [(5, 7), (3, 4), (2, 2), (1, 1), (1, 1)]
    assert outputs.logits.shape == (1, 9 * (35 + 12 + 4 + 1 + 1), 3)
    assert boxes.select(network.config, outputs, [(9, 14)])[0].boxes.shape[1] == 4


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_outputs_come_level_by_level_row_by_row_anchor_by_anchor(name):
    network = small(name).eval()
    maps = []
    for head in (network.classify, network.locate):
        head.predict.register_forward_hook(lambda module, args, y: maps.append(y))
    outputs = network(torch.randn(2, 3, 70, 41))
    levels = len(LEVELS)
    for ours, raw, count in ((outputs.logits, maps[:levels], 3), (outputs.deltas, maps[levels:], 4)):
        place = 0
        for y, (height, width) in zip(raw, outputs.sizes, strict=True):
            assert y.shape[2:] == (height, width)
            for row in range(height):
                for column in range(width):
                    for anchor in range(6):
                        expected = y[:, anchor * count : (anchor + 1) * count, row, column]
                        assert torch.equal(ours[:, place], expected)
                        place += 1
        assert place == ours.shape[1]


@torch.no_grad()
def test_an_empty_batch():
    outputs = small().eval()(torch.zeros(0, 3, 64, 64))
    assert outputs.logits.shape == (0, 6 * (64 + 16 + 4 + 1 + 1), 3)


# Heads over the levels


@pytest.mark.parametrize("name", KINDS)
def test_heads_are_shared_over_levels_and_their_norms_are_not(name):
    network = small(name)
    head = network.classify
    assert len(head.layers) == len(head.norms)
    assert all(len({id(norm) for norm in norms}) == len(LEVELS) for norms in head.norms)
    head.eval()  # else a map of one pixel has no statistics
    sides = (5, 3, 2, 1, 1)
    maps = [torch.randn(1, network.config.channels, side, side) for side in sides]

    def gradients(levels):
        head.zero_grad()
        sum(head._level(maps[level], level).square().sum() for level in levels).backward()
        layers = [p.grad.clone() for p in (*head.layers.parameters(), *head.predict.parameters())]
        return layers, [n for n in range(len(LEVELS)) if head.norms[0][n].weight.grad is not None]

    whole, normed = gradients(range(5))
    assert normed == [0, 1, 2, 3, 4]
    parts = []
    for level in range(5):
        head.zero_grad(set_to_none=True)
        layers, normed = gradients([level])
        assert normed == [level]
        parts.append(layers)
    for total, *each in zip(whole, *parts, strict=True):
        assert all(part.any() for part in each)
        torch.testing.assert_close(sum(each), total, rtol=1e-4, atol=1e-5 * total.abs().max().item())


def test_statistics_of_each_level_are_its_own():
    network = small().train()
    network(torch.randn(2, 3, 96, 96))
    means = [norm.running_mean for norm in network.classify.norms[0]]
    assert all(not torch.equal(a, b) for n, a in enumerate(means) for b in means[:n])


def test_shortcuts_of_the_heads():
    torch.manual_seed(0)
    network = small("retinanet_sasa_resnet26_attnheads", head_shortcuts=True).eval()
    plain = small("retinanet_sasa_resnet26_attnheads").eval()
    plain.load_state_dict(network.state_dict())  # they bring no parameters
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(network(images).logits, plain(images).logits)
        for norm in (norm for head in (network.classify, network.locate) for part in head.norms for norm in part):
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)
        levels = network.pyramid(network.backbone(images))
        assert torch.equal(
            network.classify(levels)[:, : levels[0].shape[2] * levels[0].shape[3] * 6].flatten(),
            network.classify.predict(levels[0]).permute(0, 2, 3, 1).flatten(),
        )
    with pytest.raises(ArgumentError, match="head_shortcuts must be True or False, got 1"):
        small("retinanet_resnet26", head_shortcuts=1)


# What cannot be built


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernal_size": 3}, "'kernal_size' is not an option of a detector; did you mean 'kernel_size'"),
        ({"anchor": 9}, "'anchor' is not an option of a detector; did you mean 'anchors'"),
        ({"zzz": 3}, "'zzz' is not an option of a detector$"),
        ({"backbone": 3}, "'backbone' is not an option of a detector$"),
        ({"pyramid": "covn"}, "pyramid must be conv or attention, got 'covn'"),
        ({"heads": ["conv"]}, r"heads must be conv or attention, got \['conv'\]"),
        ({"norm": "layer"}, "norm must be batch or group, got 'layer'"),
        ({"anchors": 3}, "anchors must be 6 or 9, got 3"),
        ({"anchors": 6.0}, "anchors must be 6 or 9, got 6.0"),
        ({"num_classes": 0}, "num_classes must be an integer of at least 1, got 0"),
        ({"head_layers": 0}, "head_layers must be an integer of at least 1, got 0"),
        ({"head_layers": 99999999}, "head_layers must be at most 1000, got 99999999"),
        ({"anchor_scale": 0}, "anchor_scale must be a number above 0 and below 1000, got 0"),
        ({"anchor_scale": math.nan}, "anchor_scale must be a number above 0 and below 1000, got nan"),
        ({"anchor_scale": True}, "anchor_scale must be a number above 0 and below 1000, got True"),
        ({"kernel_size": 4}, r"kernel_size \(4\) must be odd"),
    ],
    ids=str,
)
def test_impossible_options_are_errors(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        sasa.create_model("retinanet_sasa_resnet26", **options)


def test_unknown_names_list_similar_ones():
    with pytest.raises(ArgumentError, match="try one of: retinanet_sasa_resnet50"):
        sasa.create_model("retinanet_sasa_resnet5")


def test_configs_are_documents():
    config = small(anchors=9, norm="group").config
    assert RetinaNetConfig.from_dict(config.to_dict()) == config
    assert isinstance(Head(config, 4).layers[0], sasa.LocalAttention2d)
    assert isinstance(small().backbone.body, ResNet)


def images(count, height, width):
    """Patches and noise of another brightness and contrast in each, as images are after normalisation."""
    patches = F.interpolate(torch.randn(count, 3, height // 8, width // 8), scale_factor=8, mode="bilinear")
    x = patches / patches.std() * 0.9 + 0.4 * torch.randn(count, 3, height, width)
    return x * (0.5 + torch.rand(count, 1, 1, 1)) + torch.randn(count, 3, 1, 1)


def settle(network, maps_of):
    """Batch norms take the statistics of a batch with padding, as after training: maps keep their scale."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    batch = torch.cat([images(8, 96, 128), F.pad(images(8, 96, 96), (0, 32))])
    maps_of(network.train(), batch)
    network.eval()


@torch.no_grad()
def change_in_padding(maps_of, network):
    """How far logits inside images of 96 x 96 move when these are padded to 96 x 128, in their standard deviations.

    Args:
        maps_of: gives the logits of a batch as maps (B, C, h, w) from fine to coarse.
        network: freshly made.

    Returns:
        For each level.
    """
    settle(network, maps_of)
    alone = images(4, 96, 96)
    both = torch.cat([F.pad(alone, (0, 32)), images(1, 96, 128)])
    changes = []
    for before, after in zip(maps_of(network, alone), maps_of(network, both), strict=True):
        inside = after[: len(alone), :, : before.shape[2], : before.shape[3]]
        spread = (before - before.mean((0, 2, 3), keepdim=True)).square().mean()
        changes.append(((before - inside).square().mean() / spread).sqrt().item())
    return changes


def our_maps(network, x):
    maps = []
    hook = network.classify.predict.register_forward_hook(lambda module, args, y: maps.append(y))
    network(x)
    hook.remove()
    return maps


def torchvision_maps(network, x):
    levels = list(network.backbone(x).values())
    head = network.head.classification_head
    return [head.cls_logits(head.conv(level)) for level in levels]


def medians(maps_of, make):
    """Of the change in three networks, for each level."""
    changes = []
    for seed in range(3):
        torch.manual_seed(seed)
        changes.append(change_in_padding(maps_of, make()))
    return [sorted(level)[1] for level in zip(*changes, strict=True)]


@pytest.fixture(scope="module")
def torchvisions_change():
    from torchvision.models.detection import retinanet_resnet50_fpn

    make = lambda: retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)  # noqa: E731
    return medians(torchvision_maps, make)


@pytest.mark.parametrize(
    ("name", "options", "levels", "times"),
    [
        ("retinanet_resnet26", {}, 2, 1.5),
        ("retinanet_resnet26", {"norm": "group"}, 5, 1.5),
        # P3 and P4 have 93 % of the anchors. Behind batch norms, on P5 to P7 of so small an image (3 x 3 to 1 x 1,
        # most positions at the border), zeros beside it move attention up to 4 times as far as torchvision's network:
        ("retinanet_sasa_resnet26_attnheads", {}, 2, 2),
        ("retinanet_sasa_resnet26_attn", {}, 2, 2.5),
        # ... which windows without the zeros, or group norm, avoid.
        ("retinanet_sasa_resnet26_attnheads", {"padding": "mask"}, 5, 2),
        ("retinanet_sasa_resnet26_attnheads", {"norm": "group"}, 5, 2),
    ],
    ids=str,
)
def test_padding_moves_logits_about_as_far_as_torchvisions(name, options, levels, times, torchvisions_change):
    options = {"width": 0.25, "num_heads": 4, "num_classes": 3, "zero_init_residual": False, **options}
    changes = medians(our_maps, lambda: sasa.create_model(name, **options))
    print(name, [round(x, 2) for x in changes], "torchvision", [round(x, 2) for x in torchvisions_change])
    assert all(x <= times * y for x, y in zip(changes[:levels], torchvisions_change, strict=False))
