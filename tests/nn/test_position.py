"""A position encoding added to POSITIONS works in the layer, the stem, convert and networks."""

import pytest
import torch
from torch import fx, nn

import sasa
from helpers import assert_close, normal
from sasa.errors import ArgumentError
from sasa.nn.position import POSITIONS, NoPosition, sinusoid
from sasa.ops import local_attention


class ProjectedSinusoid(NoPosition):
    """Relative embeddings that are a learned projection of a fixed sinusoid of the offset."""

    tables = ("projection",)
    halves_heads = True
    makes_logits = True

    def add_tables(self, layer, offsets, **factory):
        super().add_tables(layer, offsets, **factory)
        half = layer.out_channels // layer.num_heads // 2
        layer.projection = nn.Parameter(torch.empty(layer.num_heads, 2 * half, half, **factory))
        layer.register_buffer(
            "offsets", sinusoid(2 * half, offsets, 1)[:, :, 0].T.to(layer.projection), persistent=False
        )

    def reset_tables(self, layer):
        nn.init.normal_(layer.projection)

    def embeddings(self, layer):
        table = layer.offsets @ layer.projection
        return table, table.flip(1)


@pytest.fixture(autouse=True)
def _encoding(monkeypatch):
    monkeypatch.setitem(POSITIONS, "projected", ProjectedSinusoid())


@pytest.mark.parametrize("content", [True, False])
def test_the_layer(content):
    layer = sasa.LocalAttention2d(4, 8, 3, num_heads=2, position="projected", content=content).double()
    x = normal(2, 4, 5, 6).requires_grad_()
    query, *key, value = layer.qkv(x).chunk(3 if content else 2, dim=1)
    table = layer.offsets @ layer.projection
    want = local_attention(
        query, *(key or [None]), value, table, table.flip(1), kernel_size=3, num_heads=2, content=content
    )
    got = layer(x)
    assert_close(got, want)
    with torch.no_grad():
        assert_close(layer(x), want)
    got.square().sum().backward()
    assert layer.projection.grad.any()
    assert set(layer.state_dict()) == {"qkv.weight", "projection"}
    assert_close(fx.symbolic_trace(layer)(x), want)


def test_the_stem():
    stem = sasa.AttentionStem(3, 8, num_heads=2, position="projected")
    image = normal(2, 3, 9, 10, dtype=torch.float32)
    before = stem(image)
    nn.init.zeros_(stem.projection)
    assert not torch.equal(before, stem(image))
    assert stem.embedding_names == ("projection", "emb_row", "emb_col", "nu")


def test_networks():
    network = sasa.create_model("sasa_resnet26", width=0.1, num_heads=2, num_classes=3, position="projected")
    assert network(normal(2, 3, 32, 32, dtype=torch.float32)).shape == (2, 3)
    spared = network.no_weight_decay()
    assert {name.rpartition(".")[2] for name in spared} == {"projection", "emb_row", "emb_col", "nu"}
    assert spared <= {name for name, _ in network.named_parameters()}


def test_convert_and_its_heads():
    convolutions = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 3))
    with pytest.warns(UserWarning, match="of an even width|cannot be halved"):
        network = sasa.convert(convolutions, num_heads=4, position="projected")
    layers = [module for module in network.modules() if isinstance(module, sasa.LocalAttention2d)]
    assert [(layer.num_heads, layer.position) for layer in layers] == [(3, "projected"), (5, "none")]


def test_unknown_positions_are_listed():
    with pytest.raises(ArgumentError, match="position must be one of relative, absolute, none, projected; got 'polar'"):
        sasa.LocalAttention2d(4, 8, 3, num_heads=2, position="polar")
    with pytest.raises(ArgumentError, match=r"got \['relative'\]"):
        sasa.create_model("sasa_resnet26", position=["relative"])  # as a config file may have it
    with pytest.raises(ArgumentError, match='content=False needs position="relative" or "projected": with'):
        sasa.LocalAttention2d(4, 8, 3, num_heads=2, position="none", content=False)
