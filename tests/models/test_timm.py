"""timm's contract with its models, following its tests/test_models.py."""

import copy
import json
import math
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import create_transform, resolve_data_config
from timm.models import FeatureInfo, FeatureListNet, get_pretrained_cfg_value, group_modules, group_parameters
from timm.models import load_pretrained as timm_load_pretrained
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

import sasa
import sasa.timm
from sasa.errors import ArgumentError
from sasa.models import ResNet

NAMES = sasa.list_models("sasa_*")
FEW = ["sasa_resnet26", "sasa_resnet26_convstem", "sasa_resnet50_c12a34"]
SMALL = {"width": 0.125, "num_heads": 4, "kernel_size": 3}


def small(name="sasa_resnet26", **options):
    return timm.create_model(name, **{**SMALL, "layers": (1, 2, 1, 1), **options})


def gradients(network):
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_exactly_our_names_are_registered():
    assert sorted(timm.list_models("sasa_*")) == NAMES
    assert sorted(timm.list_models(module="timm")) == NAMES  # the file's name, as timm has it
    assert timm.list_models("sasa_*", pretrained=True) == []
    for name in ("resnet26", "resnet50"):
        assert isinstance(timm.create_model(name, num_classes=1), timm.models.ResNet)
    assert not timm.is_model("resnet38")
    assert set(NAMES) == set(sasa.timm.__all__)
    assert all(getattr(sasa.timm, name).__name__ == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_the_network_of_that_name(name):
    network = timm.create_model(name, num_classes=7, **SMALL)
    assert isinstance(network, ResNet)
    assert network.config == sasa.create_model(name, num_classes=7, **SMALL).config
    assert network.pretrained_cfg["architecture"] == network.name == name
    # timm's registry and the network itself have the same config.
    assert {**network.pretrained_cfg, "num_classes": 7} == {
        **network.pretrained_cfg,
        **sasa.create_model(name, num_classes=7, **SMALL).pretrained_cfg,
    }


@pytest.mark.parametrize("name", NAMES)
def test_forward(name):
    network = timm.create_model(name, **SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    outputs = network(images)
    assert outputs.shape == (1, 1000)
    assert outputs.isfinite().all()
    network.set_grad_checkpointing()
    assert torch.equal(network(images), outputs)


@pytest.mark.parametrize("name", FEW)
def test_backward(name):
    network = small(name, num_classes=42).train()
    outputs = network(torch.randn(2, 3, 64, 64))
    outputs.mean().backward()
    assert outputs.shape == (2, 42)
    assert outputs.isfinite().all()
    assert [key for key, gradient in gradients(network).items() if gradient is None] == []


@pytest.mark.parametrize("name", FEW)
def test_default_cfg(name):
    network = small(name).eval()
    cfg, state = network.default_cfg, network.state_dict()
    assert cfg is network.pretrained_cfg
    assert cfg["input_size"] == (3, 224, 224)
    assert cfg["fixed_input_size"] is False
    assert cfg["classifier"] + ".weight" in state
    first_conv = (cfg["first_conv"],) if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    assert len(first_conv) == ("stem.conv.weight" in state)
    assert all(conv + ".weight" in state for conv in first_conv)

    images = torch.randn(1, *cfg["input_size"])
    features = network.forward_features(images)
    assert features.shape == (1, network.num_features, *cfg["pool_size"])
    assert torch.equal(network.forward_head(features), network(images))
    pooled = network.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, network.head_hidden_size)
    assert torch.equal(network.get_classifier()(pooled), network(images))
    network.reset_classifier(0)
    assert network.num_classes == 0
    assert torch.equal(network(images), pooled)
    network.reset_classifier(0, "")
    assert torch.equal(network(images), features)
    network.reset_classifier(5, "avg")
    assert network(images).shape == (1, 5)

    bare = small(name, num_classes=0, global_pool="").eval()
    assert bare(images).shape == features.shape


def test_the_data_config_that_timm_resolves():
    config = resolve_data_config(model=small())
    assert config["input_size"] == (3, 224, 224)
    assert config["crop_pct"] == 0.875
    assert config["mean"] == timm.data.IMAGENET_DEFAULT_MEAN
    assert config == resolve_data_config(model=sasa.create_model("sasa_resnet26", **SMALL))
    create_transform(**config)


@pytest.mark.parametrize("stem", ["small_conv", "small_attention", "attention", "conv"])
def test_default_cfg_of_a_network_with_another_stem(stem):
    network = sasa.create_model("sasa_resnet26", **SMALL, stem=stem, in_chans=4).eval()
    cfg = network.default_cfg
    assert cfg["input_size"][0] == 4
    assert bool(cfg["first_conv"]) == ("stem.conv.weight" in network.state_dict())
    assert cfg["pool_size"] == (math.ceil(224 / network.feature_info[-1]["reduction"]),) * 2


@pytest.mark.parametrize("size", [(64, 64), (61, 83)], ids=str)
@pytest.mark.parametrize("name", FEW)
def test_features_only(name, size):
    network = small(name, features_only=True).eval()
    assert isinstance(network, FeatureListNet)
    assert not any("fc" in key for key in network.state_dict())
    info = network.feature_info
    outputs = network(torch.randn(1, 3, *size))
    assert len(outputs) == len(info.channels()) == 5
    for features, channels, reduction in zip(outputs, info.channels(), info.reduction(), strict=True):
        assert features.shape == (1, channels, math.ceil(size[0] / reduction), math.ceil(size[1] / reduction))
        assert features.isfinite().all()


@pytest.mark.parametrize("feature_cls", ["list", "getter", "hook", "dict"])
@pytest.mark.parametrize("out_indices", [(1, 3), (2,), (-2, -1), (0,), 2], ids=str)
def test_features_of_some_indices(out_indices, feature_cls):
    torch.manual_seed(0)
    whole = small().eval()
    torch.manual_seed(0)
    network = small(features_only=True, out_indices=out_indices, feature_cls=feature_cls).eval()
    images = torch.randn(1, 3, 45, 64)
    outputs = network(images)
    outputs = list(outputs.values()) if feature_cls == "dict" else outputs
    expected = whole.forward_intermediates(images, out_indices, intermediates_only=True)
    assert [features.shape[1] for features in outputs] == network.feature_info.channels()
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("feature_cls", ["list", "getter"])
def test_feature_networks_have_no_unused_parameters(feature_cls):
    network = small(features_only=True, out_indices=(1, 2), feature_cls=feature_cls)
    sum(features.square().mean() for features in network(torch.randn(2, 3, 32, 32))).backward()
    assert [key for key, gradient in gradients(network).items() if gradient is None] == []


@pytest.mark.parametrize("name", FEW)
def test_forward_intermediates(name):
    network = small(name).eval()
    info = FeatureInfo(copy.deepcopy(network.feature_info), len(network.feature_info))
    images = torch.randn(1, 3, 96, 70)
    with torch.no_grad():
        features, maps = network.forward_intermediates(images)
        assert torch.equal(features, network.forward_features(images))
        assert torch.equal(features, maps[-1])
        assert [tuple(m.shape[1:]) for m in maps] == [
            (channels, math.ceil(96 / reduction), math.ceil(70 / reduction))
            for channels, reduction in zip(info.channels(), info.reduction(), strict=True)
        ]
        for indices, expected in ((2, maps[3:]), ([0, 2], [maps[0], maps[2]]), ((-1,), maps[4:]), (5, maps)):
            some = network.forward_intermediates(images, indices, intermediates_only=True)
            assert all(torch.equal(a, b) for a, b in zip(some, expected, strict=True))
        last, some = network.forward_intermediates(images, [1], stop_early=True)
        assert torch.equal(last, maps[1])
        assert torch.equal(some[0], maps[1])
        network.set_grad_checkpointing()
        assert torch.equal(network.forward_intermediates(images)[0], features)
    with pytest.raises(ArgumentError, match="output_fmt must be \"NCHW\", got 'NLC'"):
        network.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize("prune_head", [True, False])
def test_pruning(prune_head):
    network = small(num_classes=9).eval()
    assert network.prune_intermediate_layers([0, -3], prune_head=prune_head) == [0, 2]
    assert network.num_features == network.head_hidden_size == network.feature_info[2]["num_chs"]
    assert not list(network.layer3.parameters())
    assert network.num_classes == 0  # the classifier fitted layer4 only
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, network.num_features, 4, 4)

    network = small(num_classes=9).eval()
    network.prune_intermediate_layers(1, prune_head=prune_head)
    assert network.num_classes == (0 if prune_head else 9)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", FEW)
def test_parameters_are_grouped_by_depth(name, coarse):
    network = small(name)
    layers = group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
    assert layers.keys() == dict(network.named_parameters()).keys()
    assert {layer for key, layer in layers.items() if key.startswith("stem.")} == {0}
    blocks = 4 if coarse else 5
    assert layers["layer4.0.up.weight"] == blocks
    assert layers["fc.weight"] == layers["fc.bias"] == blocks + 1
    assert layers["layer2.1.up.weight"] - layers["layer2.0.up.weight"] == (0 if coarse else 1)
    assert len(group_modules(network, network.group_matcher(coarse=coarse))) == blocks + 2


def test_layer_decay_scales_every_parameter_by_its_depth():
    network = small()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = param_groups_layer_decay(
        network, weight_decay=0.05, layer_decay=0.5, no_weight_decay_list=network.no_weight_decay()
    )
    assigned = {names[id(p)]: group for group in groups for p in group["params"]}
    assert len(assigned) == len(names) == sum(len(group["params"]) for group in groups)
    assert assigned["fc.weight"]["lr_scale"] == 1
    assert assigned["layer4.0.up.weight"]["lr_scale"] == 0.5
    assert assigned["stem.w_query"]["lr_scale"] == 0.5**6
    decayed = {name for name, group in assigned.items() if group["weight_decay"]}
    assert decayed == {n for n, p in network.named_parameters() if p.dim() > 1} - network.no_weight_decay()


def test_an_optimizer_with_layer_decay_steps():
    network = small(num_classes=3)
    optimizer = create_optimizer_v2(network, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.7)
    before = copy.deepcopy(network.state_dict())
    F.cross_entropy(network(torch.randn(2, 3, 32, 32)), torch.tensor([0, 2])).backward()
    optimizer.step()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    assert not torch.equal(network.fc.weight, before["fc.weight"])


@pytest.mark.parametrize("name", [*FEW, "baseline"])
def test_grad_checkpointing_changes_nothing(name):
    network = (
        sasa.create_model("resnet26", num_classes=4, **SMALL) if name == "baseline" else small(name, num_classes=4)
    ).train()
    other = copy.deepcopy(network)
    other.set_grad_checkpointing()
    images, target = torch.randn(2, 3, 40, 40), torch.tensor([0, 3])
    losses = []
    for each in (network, other):
        losses.append(F.cross_entropy(each(images), target))
        losses[-1].backward()
    assert torch.equal(*losses)
    expected = gradients(network)
    assert all(torch.equal(gradient, expected[key]) for key, gradient in gradients(other).items())
    # Batch norm's statistics moved once, although the blocks were computed twice.
    state = other.state_dict()
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    other.set_grad_checkpointing(False)
    assert other.grad_checkpointing is False


def test_grad_checkpointing_halves_the_saved_tensors():
    network = small(layers=(1, 2, 2, 1), num_classes=4).train()
    saved = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            network(torch.randn(2, 3, 40, 40))
        saved.append(sum(sizes))
    assert saved[1] < 0.5 * saved[0]


def test_dropout_and_device_and_dtype():
    network = small(drop_rate=0.3, dtype=torch.float64, device="meta")
    assert network.drop_rate == 0.3
    assert {(p.dtype, p.device.type) for p in network.parameters()} == {(torch.float64, "meta")}
    assert small().drop_rate == 0.0


def test_input_channels():
    network = small(in_chans=1, num_classes=3).eval()
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 3)
    assert network.in_chans == 1


def test_there_are_no_pretrained_weights():
    for options in ({}, {"features_only": True}):
        with pytest.raises(RuntimeError, match="No pretrained weights exist for sasa_resnet26"):
            small(pretrained=True, **options)


def test_options_that_do_not_fit_are_errors():
    with pytest.raises(ArgumentError, match="'output_stride' is not an option of a network"):
        small(output_stride=8)
    with pytest.raises(ArgumentError, match=r"global_pool must be \"avg\".*got 'max'"):
        small(global_pool="max")


@pytest.mark.parametrize("name", FEW)
def test_weights_of_a_file_load_through_timm(name, tmp_path):
    network = small(name, num_classes=4)
    network.save_pretrained(tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 4}
    back = small(name, num_classes=4, pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), back.state_dict().values(), strict=True)
    )
    other = small(name, num_classes=6, pretrained=True, pretrained_cfg_overlay=overlay)  # timm leaves its head out
    assert torch.equal(other.layer4[0].up.weight, network.layer4[0].up.weight)
    assert other.fc.weight.shape[0] == 6


def test_timm_adapts_a_convolutional_stem_to_other_channels(tmp_path):
    network = small("sasa_resnet26_convstem", num_classes=4)
    network.save_pretrained(tmp_path)
    grey = small("sasa_resnet26_convstem", num_classes=4, in_chans=1)
    cfg = {**grey.pretrained_cfg, "file": str(tmp_path / "model.safetensors"), "num_classes": 4}
    timm_load_pretrained(grey, cfg, num_classes=4, in_chans=1)
    torch.testing.assert_close(grey.stem.conv.weight, network.stem.conv.weight.sum(1, keepdim=True))


def test_a_network_that_timm_saved_comes_back_through_timm(tmp_path):
    network = small(num_classes=4)
    timm.models.save_for_hf(network, str(tmp_path), safe_serialization=True)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "sasa_resnet26"
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **SMALL, layers=(1, 2, 1, 1))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), back.state_dict().values(), strict=True)
    )


def test_registered_cfgs():
    for name in NAMES:
        assert get_pretrained_cfg_value(name, "pool_size") == (7, 7)
        assert get_pretrained_cfg_value(name, "classifier") == "fc"
        assert get_pretrained_cfg_value(name, "paper_ids") == "arXiv:1906.05909"
        assert get_pretrained_cfg_value(name, "first_conv") == ("stem.conv" if "_c" in name else ())


def test_importing_sasa_does_not_import_timm_and_a_missing_timm_is_reported():
    code = "import sys, sasa; assert 'timm' not in sys.modules; sys.modules['timm.models'] = None; import sasa.timm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: sasa.timm needs timm: pip install 'sasa[train]'" in done.stderr


def test_networks_are_modules_that_copy_and_convert():
    network = copy.deepcopy(small()).eval()
    assert isinstance(network, nn.Module)
    assert network.bfloat16()(torch.randn(1, 3, 32, 32).bfloat16()).dtype == torch.bfloat16
