"""Fused batch norm, shortcut and ReLU give the results of torch's own operations."""

import copy

import pytest
import torch
from torch import nn

import sasa
from helpers import NEEDS_KERNELS
from helpers import normal as normal_in
from sasa.nn import conv_norm_act as step
from sasa.nn.conv_norm_act import conv_norm_act
from sasa.ops import fusion

# The fused operators are used only with the kernels.
pytestmark = NEEDS_KERNELS


def normal(*shape, seed=0):
    return normal_in(*shape, seed=seed, dtype=torch.float32)


def block_of(layer):
    norm = nn.BatchNorm2d(16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return layer, norm


def conv_norm():
    torch.manual_seed(0)
    return block_of(nn.Conv2d(8, 16, 1, bias=False).to(memory_format=torch.channels_last))


def attention_norm(stride=1):
    torch.manual_seed(0)
    return block_of(sasa.LocalAttention2d(8, 16, 3, stride, num_heads=2))


def images(*shape):
    return normal(*shape).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def seen(monkeypatch):
    """Names of the fused operators that ran."""
    ran = []
    for name in ("affine_", "norm_relu"):
        original = getattr(step, name)

        def counting(*args, _name=name, _original=original, **options):
            ran.append(_name)
            return _original(*args, **options)

        monkeypatch.setattr(step, name, counting)
    infer = sasa.LocalAttention2d.infer
    monkeypatch.setattr(sasa.LocalAttention2d, "infer", lambda *a, **o: (ran.append("infer"), infer(*a, **o))[1])
    return ran


FORMS = {
    "relu": lambda layer, norm, x, r: conv_norm_act(x, layer, norm),
    "add, relu": lambda layer, norm, x, r: conv_norm_act(x, layer, norm, r),
    "norm": lambda layer, norm, x, r: conv_norm_act(x, layer, norm, relu=False),
}
PLAIN = {
    "relu": lambda layer, norm, x, r: norm(layer(x)).relu(),
    "add, relu": lambda layer, norm, x, r: (norm(layer(x)) + r).relu(),
    "norm": lambda layer, norm, x, r: norm(layer(x)),
}


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_inference_behind_a_convolution(seen, form):
    layer, norm = conv_norm()
    x, residual = images(2, 8, 5, 7), images(2, 16, 5, 7)
    norm.eval()
    kept = residual.clone()
    got = FORMS[form](layer, norm, x, residual)
    torch.testing.assert_close(got, PLAIN[form](layer, norm, x, residual), rtol=1e-5, atol=1e-5)
    assert seen == ["affine_"]
    assert torch.equal(residual, kept)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@torch.no_grad()
def test_a_shortcut_in_another_dtype(seen, memory_format):
    """Under autocast the convolution's output is rounded, and the input of the block may not be."""
    layer, norm = block_of(nn.Conv2d(16, 16, 1))
    x = images(2, 16, 5, 7).contiguous(memory_format=memory_format)
    norm.eval()
    with torch.autocast("cpu", torch.bfloat16):
        got, want = FORMS["add, relu"](layer, norm, x, x), PLAIN["add, relu"](layer, norm, x, x)
    assert seen == ["affine_"]
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gradients", [True, False])
def test_the_input_stays_where_layers_were_removed(form, gradients):
    x, residual = normal(2, 16, 5, 7), normal(2, 16, 5, 7, seed=1)
    kept = x.clone()
    with torch.set_grad_enabled(gradients):
        got = FORMS[form](nn.Identity(), nn.Identity(), x, residual)
    assert torch.equal(x, kept)
    assert torch.equal(got, PLAIN[form](nn.Identity(), nn.Identity(), x, residual))


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_inference_behind_attention(seen, stride):
    layer, norm = attention_norm(stride)
    norm.eval()
    x = images(2, 8, 5, 7)
    got = conv_norm_act(x, layer, norm)
    assert seen == ["infer"]
    with torch.enable_grad():
        want = norm(layer(x)).relu()
    torch.testing.assert_close(got, want.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("form", FORMS)
def test_training_behind_a_convolution(seen, form, momentum):
    layer, norm = conv_norm()
    norm.momentum = momentum
    other_layer, other_norm = copy.deepcopy((layer, norm))
    x, residual = (images(*s).requires_grad_() for s in ((2, 8, 5, 7), (2, 16, 5, 7)))
    other_x, other_residual = (t.detach().clone().requires_grad_() for t in (x, residual))
    grad = images(2, 16, 5, 7) + 1
    for _ in range(2):
        got = FORMS[form](layer, norm, x, residual)
        want = PLAIN[form](other_layer, other_norm, other_x, other_residual)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        got.backward(grad)
        want.backward(grad)
    assert seen == ["norm_relu"] * 2
    pairs = [(x, other_x), *zip(layer.parameters(), other_layer.parameters(), strict=True)]
    pairs += zip(norm.parameters(), other_norm.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    if form == "add, relu":
        torch.testing.assert_close(residual.grad, other_residual.grad)
    for one, other in zip(norm.buffers(), other_norm.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_contiguous_maps_in_training_use_torchs_operations(seen):
    layer, norm = conv_norm()
    layer.to(memory_format=torch.contiguous_format)
    conv_norm_act(normal(2, 8, 5, 7), layer, norm)
    assert not seen


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["sasa_resnet26", "sasa_resnet26_convstem", "resnet26"])
def test_networks_are_the_same_without_it(monkeypatch, name, training):
    """Compared in float64: in float32 rounding may decide the sign before a ReLU."""
    torch.manual_seed(0)
    network = sasa.create_model(name, num_classes=5, width=0.25, num_heads=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 1)  # both signs: the stem pools by them
    network = network.to(memory_format=torch.channels_last).train(training)
    other = copy.deepcopy(network).double()
    x = images(3, 3, 61, 64)

    def run(model):
        with torch.set_grad_enabled(training):
            y = model(x.to(next(model.parameters()).dtype))
        if training:
            y.square().sum().backward()
        return y.detach()

    got = run(network)
    monkeypatch.setattr(fusion, "FUSING", {})
    want = run(other)
    torch.testing.assert_close(got.double(), want, rtol=2e-3, atol=2e-3)
    for (parameter, one), two in zip(network.named_parameters(), other.parameters(), strict=True):
        if training:
            error = (one.grad - two.grad).norm() / two.grad.norm().clamp_min(1e-4)
            assert error < 2e-2, parameter
    for one, two in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one.to(two.dtype), two, rtol=1e-3, atol=1e-4)
