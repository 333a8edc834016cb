"""The convolutional twin of a network: feature maps of the same sizes, no attention."""

import pytest
import torch
from torch import nn

from sasa.errors import SasaError
from sasa.models import create_model
from sasa.nn import AttentionStem, LocalAttention2d
from sasa.speed import convolutional_twin

SMALL = {"width": 0.125, "num_heads": 2, "layers": [1, 1, 1, 1], "in_chans": 1, "num_classes": 10}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sasa_resnet26", {"stem_block": 2}),
        ("sasa_resnet26", {"stem_block": 4}),
        ("sasa_resnet26", {"stem": "small_attention"}),
        ("sasa_resnet26_convstem", {}),
        ("sasa_resnet26_convstem", {"groups": "ccaa"}),
    ],
)
def test_a_twin_has_feature_maps_of_the_same_sizes(name, options):
    ours = create_model(name, **SMALL, **options)
    other = convolutional_twin(ours)
    assert not any(isinstance(module, LocalAttention2d | AttentionStem) for module in other.modules())
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in other.modules()) >= 4
    image = torch.randn(2, 1, 17, 16)
    with torch.no_grad():
        maps = [n.eval().forward_intermediates(image, intermediates_only=True) for n in (ours, other)]
    assert [m.shape for m in maps[0]] == [m.shape for m in maps[1]]


def test_a_convolutional_network_has_no_twin():
    with pytest.raises(SasaError, match="resnet26 has no attention, so it has no convolutional twin"):
        convolutional_twin(create_model("resnet26", **SMALL))


@pytest.mark.parametrize("name", ["attn", "attnheads"])
def test_the_twin_of_a_detector(name):
    ours = create_model(f"retinanet_sasa_resnet26_{name}", width=0.1, num_heads=2, layers=[1, 1, 1, 1])
    other = convolutional_twin(ours)
    assert not any(isinstance(module, LocalAttention2d | AttentionStem) for module in other.modules())
    assert other.config == create_model("retinanet_resnet26", width=0.1, num_heads=2, layers=[1, 1, 1, 1]).config
    heads_only = create_model("retinanet_resnet26_attnheads", width=0.1, num_heads=2, layers=[1, 1, 1, 1])
    assert convolutional_twin(heads_only).config == other.config
    with pytest.raises(SasaError, match="has no attention, so it has no convolutional twin"):
        convolutional_twin(other)
