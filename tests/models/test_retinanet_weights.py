"""A detector's weights: initialised, trained, saved, loaded, taken from a classifier."""

import pytest
import torch
from torch import nn

import sasa
from detectors import KINDS, SMALL, on_meta, small
from sasa.errors import ArgumentError, SasaError
from sasa.models import boxes
from sasa.models.retinanet import HEAD_STD, PRIOR, RetinaNet


def step(network, images):
    """One forward and backward pass with one object in each image."""
    height, width = images.shape[-2:]
    box = torch.tensor([[0.1 * width, 0.1 * height, 0.7 * width, 0.8 * height]])
    count = len(images)
    outputs = network(images)
    loss = boxes.losses(
        network.config, outputs, [box] * count, [torch.tensor([1])] * count, [torch.zeros(0, 4)] * count
    )
    (loss.classification + loss.box).backward()
    return outputs, loss


# Before training


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
def test_group_norm_trains_on_one_image_whose_coarse_maps_are_one_pixel(name):
    images = torch.randn(1, 3, 64, 64)  # P6 and P7 are 1 x 1
    with pytest.raises(ValueError, match="more than"):
        small(name)(images)
    network = small(name, norm="group")
    assert not any(
        isinstance(m, nn.BatchNorm2d) for part in (network.pyramid, network.classify) for m in part.modules()
    )
    outputs, loss = step(network, images)
    assert outputs.sizes[-2:] == [(1, 1), (1, 1)]
    assert loss.classification.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("width", "groups"), [(1.0, 32), (0.25, 8), (0.01, 2)])
def test_group_norm_has_groups_of_eight_channels(width, groups):
    norm = on_meta("retinanet_resnet26", width=width, norm="group").pyramid.norms[0]
    assert (norm.num_groups, norm.num_channels) == (groups, 8 * groups)


def test_gradient_checkpointing_changes_no_gradient():
    images = torch.randn(2, 3, 72, 64)
    network = small()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    step(network, images)
    expected = {key: p.grad.clone() for key, p in network.named_parameters()}
    moved = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(state)
    network.zero_grad()
    network.set_grad_checkpointing()
    assert network.backbone.body.grad_checkpointing
    step(network, images)
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


# In and out


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
    images = torch.randn(1, 3, 50, 70)
    assert all(torch.equal(a, b) for a, b in zip(network(images)[:2], again(images)[:2], strict=True))
    assert sasa.create_model(tmp_path, anchors=9, num_classes=3).config == network.config
    with pytest.raises(ArgumentError, match=r"holds a network with anchors=9, not 6$"):
        sasa.create_model(tmp_path, anchors=6)
    with pytest.raises(ArgumentError, match=r"holds a network with num_classes=3, not 90$"):
        sasa.create_model(tmp_path, num_classes=90)
    with pytest.raises(ArgumentError, match=r"holds a network with kernel_size=3, not 7$"):
        sasa.create_model(tmp_path, kernel_size=7)
    with pytest.raises(
        ArgumentError, match=r"'anchor_scal' is not an option of a detector; did you mean 'anchor_scale'\?"
    ):
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
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        maps = network.eval().backbone(images)
        expected = classifier.eval().forward_intermediates(images, [2, 3, 4], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel_size": 5}, "the backbone has kernel_size=3, but its weights come from a network with 5"),
        ({"width": 0.2}, "the backbone has width=0.1, but its weights come from a network with 0.2"),
        ({"position": "none"}, "the backbone has position='relative', but .* 'none'"),
        ({"groups": "ccaa"}, "the backbone has groups='aaaa', but .* 'ccaa'"),
        ({"in_chans": 1}, "the backbone has in_chans=3, but .* 1"),
    ],
    ids=str,
)
def test_a_backbone_with_other_options_is_refused(options, sentence):
    network = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(SasaError, match=sentence):
        network.load_backbone(sasa.create_model("sasa_resnet26", **{**SMALL, **options}))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
