"""Detectors by name: their sizes and parts, the order of their outputs, weights in and out, pictures in padding."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import sasa
import sasa.timm
from sasa.errors import ArgumentError, SasaError
from sasa.models import boxes
from sasa.models.resnet import ResNet
from sasa.models.retinanet import HEAD_STD, PRIOR, Head, RetinaNet
from sasa.models.retinanet_config import DETECTORS, LEVELS, RetinaNetConfig
from sasa.models.variants import VARIANTS

# Table 2, parameters in millions; the last has attention in the pyramid too and is no row (PAPER.md).
PARAMETERS = {
    "retinanet_resnet50": 33.4,
    "retinanet_sasa_resnet50_convstem": 25.9,
    "retinanet_sasa_resnet50": 25.9,
    "retinanet_sasa_resnet50_convstem_attnheads": 22.0,
    "retinanet_sasa_resnet50_attnheads": 22.0,
    "retinanet_sasa_resnet50_convstem_attn": 20.06,
}
KINDS = ["retinanet_resnet26", "retinanet_sasa_resnet26_attnheads", "retinanet_sasa_resnet26_attn"]
SMALL = {"layers": (1, 1, 1, 1), "width": 0.1, "num_heads": 2, "kernel_size": 3, "num_classes": 3}


def small(name="retinanet_sasa_resnet26_attn", **options):
    """A detector of four blocks, and of 24 channels in pyramid and heads."""
    return sasa.create_model(name, **{**SMALL, **options})


def on_meta(name, **options):
    """A network without storage, to be counted."""
    with torch.device("meta"):
        return sasa.create_model(name, **options)


def spatial_convolutions(module):
    return sum(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in module.modules())


def step(network, pictures):
    """One forward and backward pass with one object in each picture."""
    height, width = pictures.shape[-2:]
    box = torch.tensor([[0.1 * width, 0.1 * height, 0.7 * width, 0.8 * height]])
    count = len(pictures)
    outputs = network(pictures)
    loss = boxes.losses(
        network.config, outputs, [box] * count, [torch.tensor([1])] * count, [torch.zeros(0, 4)] * count
    )
    (loss.classification + loss.box).backward()
    return outputs, loss


# Sizes and parts


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_at_full_width_are_the_papers(name):
    parameters = sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert parameters / 1e6 == pytest.approx(PARAMETERS[name], rel=0.001 if name.endswith("_attn") else 0.005)


@pytest.mark.parametrize("name", DETECTORS)
def test_spatial_convolutions_stand_where_the_name_says(name):
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
    with pytest.raises(ArgumentError, match="retinanet_resnet26 is a detector: features_only is for classifiers"):
        small("retinanet_resnet26", features_only=True)


# Outputs


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (31, 1), (2, 3), (33, 47), (40, 100), (64, 97)], ids=str)
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_any_size_of_picture(name, size):
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


# Weights before training


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_every_anchor_begins_at_the_prior(name):
    torch.manual_seed(0)
    chances = small(name).eval()(torch.randn(1, 3, 64, 64)).logits.sigmoid()
    assert chances.mean().item() == pytest.approx(PRIOR, rel=0.05)
    assert chances.min() > 0.5 * PRIOR
    assert chances.max() < 2 * PRIOR


@torch.no_grad()
def test_values_of_the_heads_begin_small():
    torch.manual_seed(0)
    network = small(width=0.25)
    for head in (network.classify, network.locate):
        for layer in head.layers:
            values = layer.qkv.weight[-layer.out_channels :]
            assert values.std().item() == pytest.approx(HEAD_STD, rel=0.05)
            assert layer.qkv.weight[: -layer.out_channels].std() > 3 * HEAD_STD
        assert head.predict.weight.std().item() == pytest.approx(HEAD_STD, rel=0.1)
    assert not network.locate.predict.bias.any()
    convolutional = small("retinanet_resnet26", width=0.25)
    assert convolutional.classify.layers[0].weight.std().item() == pytest.approx(HEAD_STD, rel=0.05)


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


# Training


@pytest.mark.parametrize("name", KINDS)
def test_a_step_moves_every_parameter(name):
    torch.manual_seed(0)
    network = small(name, zero_init_residual=False)
    _, loss = step(network, torch.randn(2, 3, 96, 96))
    assert loss.classification.isfinite()
    assert loss.box.isfinite()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    still = [key for key, parameter in network.named_parameters() if not parameter.grad.any()]
    # No box belongs to some of the levels; two values have a sign after batch norm, and no more.
    assert not [key for key in still if not key.startswith(("locate.norms", "pyramid.norms.4", "classify.norms"))]


@pytest.mark.parametrize("name", KINDS)
def test_group_norm_trains_on_one_picture_whose_coarse_maps_are_one_pixel(name):
    pictures = torch.randn(1, 3, 64, 64)  # P6 and P7 are 1 x 1
    with pytest.raises(ValueError, match="more than"):
        small(name)(pictures)
    network = small(name, norm="group")
    assert not any(
        isinstance(m, nn.BatchNorm2d) for part in (network.pyramid, network.classify) for m in part.modules()
    )
    outputs, loss = step(network, pictures)
    assert outputs.sizes[-2:] == [(1, 1), (1, 1)]
    assert loss.classification.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("width", "groups"), [(1.0, 32), (0.25, 8), (0.01, 2)])
def test_group_norm_has_groups_of_eight_channels(width, groups):
    norm = on_meta("retinanet_resnet26", width=width, norm="group").pyramid.norms[0]
    assert (norm.num_groups, norm.num_channels) == (groups, 8 * groups)


def test_gradient_checkpointing_changes_no_gradient():
    pictures = torch.randn(2, 3, 72, 64)
    network = small()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    step(network, pictures)
    expected = {key: p.grad.clone() for key, p in network.named_parameters()}
    moved = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(state)
    network.zero_grad()
    network.set_grad_checkpointing()
    assert network.backbone.body.grad_checkpointing
    step(network, pictures)
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-5, atol=1e-7)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, moved[key])  # statistics move once


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16(name):
    network = small(name)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, loss = step(network, torch.randn(2, 3, 64, 96))
    assert loss.classification.dtype == torch.float32
    assert loss.classification.isfinite()
    assert loss.box.isfinite()
    assert outputs.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_weight_decay_spares_positions():
    network = small()
    spared = network.no_weight_decay()
    assert {"backbone.body.stem.nu", "pyramid.layers.4.rel_row", "classify.layers.0.rel_col"} <= spared
    assert spared <= dict(network.named_parameters()).keys()
    assert not any("weight" in name or "bias" in name for name in spared)
    assert small("retinanet_resnet26").no_weight_decay() == set()


@torch.no_grad()
def test_an_empty_batch():
    outputs = small().eval()(torch.zeros(0, 3, 64, 64))
    assert outputs.logits.shape == (0, 6 * (64 + 16 + 4 + 1 + 1), 3)


# Weights in and out


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same_to_the_bit(tmp_path):
    options = {"anchors": 9, "anchor_scale": 2.5, "head_layers": 2, "norm": "group", "position": "none"}
    network = small("retinanet_sasa_resnet26_convstem_attnheads", **options).eval()
    network.save_pretrained(tmp_path, labels=["a", "b", "c"])
    again = sasa.create_model(tmp_path).eval()
    assert isinstance(again, RetinaNet)
    assert (again.name, again.config, again.metadata) == (network.name, network.config, {"labels": ["a", "b", "c"]})
    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    pictures = torch.randn(1, 3, 50, 70)
    assert all(torch.equal(a, b) for a, b in zip(network(pictures)[:2], again(pictures)[:2], strict=True))
    assert sasa.create_model(tmp_path, anchors=9, num_classes=3).config == network.config
    with pytest.raises(ArgumentError, match=r"holds a network with anchors=9, not 6$"):
        sasa.create_model(tmp_path, anchors=6)
    with pytest.raises(ArgumentError, match=r"holds a network with num_classes=3, not 90$"):
        sasa.create_model(tmp_path, num_classes=90)
    with pytest.raises(ArgumentError, match=r"holds a network with kernel_size=3, not 7$"):
        sasa.create_model(tmp_path, kernel_size=7)
    with pytest.raises(ArgumentError, match=r"'anchor_scal' is no option of a detector; did you mean 'anchor_scale'\?"):
        sasa.create_model(tmp_path, anchor_scal=1)


@pytest.mark.parametrize("name", ["retinanet_resnet26", "retinanet_sasa_resnet26_attn"])
def test_a_backbone_starts_from_a_classifier(name):
    backbone = name.removeprefix("retinanet_").removesuffix("_attn")
    classifier = sasa.create_model(backbone, **{**SMALL, "num_classes": 7, "zero_init_residual": False})
    for value in classifier.state_dict().values():
        value.copy_(torch.rand(value.shape))  # statistics too
    network = small(name)
    own = {key: value.clone() for key, value in network.state_dict().items() if not key.startswith("backbone.")}
    network.load_backbone(classifier)
    body = network.backbone.body.state_dict()
    assert body.keys() == {key for key in classifier.state_dict() if not key.startswith("fc.")}
    assert all(torch.equal(value, classifier.state_dict()[key]) for key, value in body.items())
    assert all(torch.equal(network.state_dict()[key], value) for key, value in own.items())
    pictures = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        maps = network.eval().backbone(pictures)
        expected = classifier.eval().forward_intermediates(pictures, [2, 3, 4], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel_size": 5}, "the backbone has kernel_size=3, and the network whose weights it shall take 5"),
        ({"width": 0.2}, "the backbone has width=0.1, and the network whose weights it shall take 0.2"),
        ({"position": "none"}, "the backbone has position='relative', and .* 'none'"),
        ({"groups": "ccaa"}, "the backbone has groups='aaaa', and .* 'ccaa'"),
        ({"in_chans": 1}, "the backbone has in_chans=3, and .* 1"),
    ],
    ids=str,
)
def test_a_backbone_of_another_make_is_refused(options, sentence):
    network = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(SasaError, match=sentence):
        network.load_backbone(sasa.create_model("sasa_resnet26", **{**SMALL, **options}))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernal_size": 3}, "'kernal_size' is no option of a detector; did you mean 'kernel_size'"),
        ({"anchor": 9}, "'anchor' is no option of a detector; did you mean 'anchors'"),
        ({"zzz": 3}, "'zzz' is no option of a detector$"),
        ({"backbone": 3}, "'backbone' is no option of a detector$"),
        ({"pyramid": "covn"}, "pyramid must be conv or attention, got 'covn'"),
        ({"heads": ["conv"]}, r"heads must be conv or attention, got \['conv'\]"),
        ({"norm": "layer"}, "norm must be batch or group, got 'layer'"),
        ({"anchors": 3}, "anchors must be 6 or 9, got 3"),
        ({"anchors": 6.0}, "anchors must be 6 or 9, got 6.0"),
        ({"num_classes": 0}, "num_classes must be an integer of at least 1, got 0"),
        ({"head_layers": 0}, "head_layers must be an integer of at least 1, got 0"),
        ({"anchor_scale": 0}, "anchor_scale must be a number above 0 and below 1000, got 0"),
        ({"anchor_scale": math.nan}, "anchor_scale must be a number above 0 and below 1000, got nan"),
        ({"anchor_scale": True}, "anchor_scale must be a number above 0 and below 1000, got True"),
        ({"kernel_size": 4}, r"kernel_size \(4\) must be odd"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_a_sentence(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        sasa.create_model("retinanet_sasa_resnet26", **options)


def test_unknown_names_list_the_near_ones():
    with pytest.raises(ArgumentError, match="near: retinanet_sasa_resnet50"):
        sasa.create_model("retinanet_sasa_resnet5")


def test_configs_are_documents():
    config = small(anchors=9, norm="group").config
    assert RetinaNetConfig.from_dict(config.to_dict()) == config
    assert isinstance(Head(config, 4).layers[0], sasa.LocalAttention2d)
    assert isinstance(small().backbone.body, ResNet)


# A picture alone and in the padding of a larger one


def pictures(count, height, width):
    """Patches and noise of another brightness and contrast in each, as pictures are after normalisation."""
    patches = F.interpolate(torch.randn(count, 3, height // 8, width // 8), scale_factor=8, mode="bilinear")
    x = patches / patches.std() * 0.9 + 0.4 * torch.randn(count, 3, height, width)
    return x * (0.5 + torch.rand(count, 1, 1, 1)) + torch.randn(count, 3, 1, 1)


def settle(network, maps_of):
    """Batch norms take the statistics of a batch with padding, as after training: maps keep their scale."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    batch = torch.cat([pictures(8, 96, 128), F.pad(pictures(8, 96, 96), (0, 32))])
    maps_of(network.train(), batch)
    network.eval()


@torch.no_grad()
def change_in_padding(maps_of, network):
    """How far logits inside pictures of 96 x 96 move when these are padded to 96 x 128, in their standard deviations.

    Args:
        maps_of: gives the logits of a batch as maps (B, C, h, w) from fine to coarse.
        network: freshly made.

    Returns:
        For each level.
    """
    settle(network, maps_of)
    alone = pictures(4, 96, 96)
    both = torch.cat([F.pad(alone, (0, 32)), pictures(1, 96, 128)])
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
        # P3 and P4 have 93 % of the anchors. Behind batch norms, on P5 to P7 of so small a picture (3 x 3 to 1 x 1,
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


def test_shortcuts_of_the_heads():
    torch.manual_seed(0)
    network = small("retinanet_sasa_resnet26_attnheads", head_shortcuts=True).eval()
    plain = small("retinanet_sasa_resnet26_attnheads").eval()
    plain.load_state_dict(network.state_dict())  # they bring no parameters
    pictures = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(network(pictures).logits, plain(pictures).logits)
        for norm in (norm for head in (network.classify, network.locate) for part in head.norms for norm in part):
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)
        levels = network.pyramid(network.backbone(pictures))
        assert torch.equal(
            network.classify(levels)[:, : levels[0].shape[2] * levels[0].shape[3] * 6].flatten(),
            network.classify.predict(levels[0]).permute(0, 2, 3, 1).flatten(),
        )
    with pytest.raises(ArgumentError, match="head_shortcuts must be True or False, got 1"):
        small("retinanet_resnet26", head_shortcuts=1)
