"""torch.fx and torch.jit.trace record the general form of layers and networks, for every later input."""

import pytest
import torch
from torch import fx, nn

import sasa
from helpers import normal

LAYERS = {
    "attention": (lambda: sasa.LocalAttention2d(8, 16, 3, num_heads=2), 8),
    "strided": (lambda: sasa.LocalAttention2d(8, 16, 3, 2, num_heads=2), 8),
    "absolute": (lambda: sasa.LocalAttention2d(8, 16, 3, num_heads=2, position="absolute"), 8),
    "without content": (lambda: sasa.LocalAttention2d(8, 16, 3, num_heads=2, content=False), 8),
    "stem": (lambda: sasa.AttentionStem(3, 16, num_heads=2), 3),
    "stem, absolute, convolution": (
        lambda: sasa.AttentionStem(3, 16, num_heads=2, position="absolute", values="convolution"),
        3,
    ),
}
NETWORKS = ["sasa_resnet26", "sasa_resnet26_convstem", "resnet26", "retinanet_sasa_resnet26_attn"]
SIZES = [(2, 33, 40), (1, 48, 32)]  # the first is the example for tracing


def images(channels, size):
    batch, height, width = size
    return normal(batch, channels, height, width, dtype=torch.float32)


def tensors(output):
    """A network's output, or those of a detector."""
    return [output] if isinstance(output, torch.Tensor) else [output[0], output[1]]


def assert_agree(traced, model, channels):
    for size in SIZES:
        x = images(channels, size)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                for one, other in zip(tensors(traced(x)), tensors(model(x)), strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_fx_traces_a_layer(name, gradients):
    make, channels = LAYERS[name]
    layer = make().eval()
    with torch.set_grad_enabled(gradients):
        traced = fx.symbolic_trace(layer)
    assert_agree(traced, layer, channels)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_fx_traces_a_network(name):
    torch.manual_seed(0)
    network = sasa.create_model(name, num_classes=3, num_heads=2, width=0.25).eval()
    traced = fx.symbolic_trace(network)
    leaves = {type(traced.get_submodule(str(n.target))) for n in traced.graph.nodes if n.op == "call_module"}
    assert nn.BatchNorm2d in leaves, "norms are what torch's own tools look for"
    assert_agree(traced, network, 3)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated", "ignore:`torch.jit.trace_method` is deprecated")
@pytest.mark.parametrize("name", ["sasa_resnet26", "resnet26"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # checks of shapes are not traced
@torch.no_grad()
def test_a_jit_trace_has_no_batch_size_baked_in(name):
    torch.manual_seed(0)
    network = sasa.create_model(name, num_classes=3, num_heads=2, width=0.25).eval()
    traced = torch.jit.trace(network, images(3, (8, 32, 32)))
    for batch in (8, 1):
        x = images(3, (batch, 32, 32))
        torch.testing.assert_close(traced(x), network(x), rtol=1e-4, atol=1e-4)
