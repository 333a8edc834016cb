"""Drawing and scoring leave each module in the mode that it had, such as a norm that is frozen in training."""

import pytest
import torch
from torch import nn

import sasa
from sasa.draw.attention import attention_layers, layer_inputs
from sasa.nn.modes import evaluating
from sasa.tasks.classification.evaluation import score_batches


@pytest.fixture
def network() -> nn.Module:
    """In training, but for its norms."""
    network = sasa.create_model("sasa_resnet26", num_classes=3, width=0.125, num_heads=2).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return network


def modes(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


def test_every_module_gets_its_own_mode_back(network):
    before = modes(network)
    with evaluating(network):
        assert not any(modes(network))
    assert modes(network) == before
    with pytest.raises(RuntimeError, match="stopped"), evaluating(network):
        raise RuntimeError("stopped")
    assert modes(network) == before


def test_drawing_and_scoring_change_no_mode(network):
    before = modes(network)
    layer_inputs(network, torch.randn(3, 32, 32), list(attention_layers(network))[:1])
    score_batches(network, [], 3, torch.device("cpu"))
    assert modes(network) == before
