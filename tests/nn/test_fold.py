"""`optimize_for_inference`: the same outputs with fewer layers, for our networks and others."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import sasa
from sasa.nn.fold import FoldedNorm, foldable


def trained_norms(model):
    """Set statistics and gains as after training; with initial values an incomplete fold would pass."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.track_running_stats:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.7, 1.5, generator=generator)
            if not module.affine:
                continue
            with torch.no_grad():
                module.weight.uniform_(0.7, 1.3, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def ours(name):
    return sasa.create_model(name, num_classes=10, width=0.25)


# Numbers of norms that are folded and that stay (after attention, and in the attention stem).
NETWORKS = {
    "resnet26": (lambda: ours("resnet26"), 29, 0),
    "sasa_resnet26": (lambda: ours("sasa_resnet26"), 20, 9),
    "sasa_resnet26_convstem": (lambda: ours("sasa_resnet26_convstem"), 21, 8),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 20, 0),
    "timm resnet26t": (lambda: timm.create_model("resnet26t", num_classes=10), 31, 0),
    "converted": (lambda: sasa.convert(torchvision.models.resnet18(num_classes=10), kernel_size=3), 3, 17),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_agree(name):
    torch.manual_seed(0)
    make, folds, stays = NETWORKS[name]
    model = trained_norms(make()).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = sasa.optimize_for_inference(model)
    assert (count(fast, FoldedNorm), count(fast, nn.BatchNorm2d)) == (folds, stays)
    image = torch.randn(2, 3, 64, 50)
    with torch.no_grad():
        want, got = model(image), fast(image)
    assert (got - want).norm() <= 1e-4 * want.norm()
    assert count(model, FoldedNorm) == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_copy_is_for_inference_only():
    model = ours("resnet26").train()
    fast = sasa.optimize_for_inference(model)
    assert model.training
    assert not fast.training
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert fast.eval() is fast
    with pytest.raises(ValueError, match="for inference only: optimize_for_inference folded its batch norms"):
        fast.train()
    with pytest.raises(ValueError, match="for inference only"):
        nn.Sequential(fast).train()


def test_its_weights_are_not_saved_under_the_name_of_another_network(tmp_path):
    with pytest.raises(ValueError, match="resnet26 was made by optimize_for_inference and lacks its batch norms"):
        sasa.optimize_for_inference(ours("resnet26")).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_layout_and_dtype_stay():
    model = trained_norms(ours("resnet26")).to(torch.bfloat16, memory_format=torch.channels_last)
    fast = sasa.optimize_for_inference(model)
    assert fast.stem.conv.weight.dtype == fast.stem.conv.bias.dtype == torch.bfloat16
    assert fast.layer1[0].spatial.weight.is_contiguous(memory_format=torch.channels_last)


class Shared(nn.Module):
    """One convolution, read twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class SharedByDefault(Shared):
    """One convolution, read twice where an optional argument is not given."""

    def forward(self, x, alone=None):
        return super().forward(x) if alone is None else self.norm(self.conv(x))


class SharedOnDemand(Shared):
    """One convolution, read twice where an optional argument is given."""

    def forward(self, x, shared=None):
        return self.norm(self.conv(x)) if shared is None else super().forward(x)


class Tied(Shared):
    """The weights of the convolution are those of another layer as well."""

    def forward(self, x):
        return nn.functional.conv2d(self.norm(self.conv(x)), self.conv.weight)


class Centred(Shared):
    """The statistics of the norm are read by the network."""

    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm.running_mean[:, None, None]


class DependsOnData(nn.Module):
    """An untraceable forward around traceable parts."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        return self.body(x) if x.sum() > 0 else self.body(-x)


def hooked():
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    layers[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return layers


def replaced_forward():
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    forward = layers[0].forward
    layers[0].forward = lambda x: forward(x) + 1
    return layers


def twice():
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    return nn.Sequential(layers, layers)


CASES = {
    "in sequence": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), [("0", "1")]),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)), []),
    "ReLU between": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), []),
    "no statistics": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), []),
    "read twice": (Shared, []),
    "read twice by default": (SharedByDefault, []),
    "read twice on demand": (SharedOnDemand, []),
    "tied": (Tied, []),
    "statistics read": (Centred, []),
    "run twice": (twice, []),
    "with a replaced forward": (replaced_forward, []),
    "with a hook": (hooked, []),
    "with a parametrization": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)),
        [],
    ),
    "inside what depends on data": (DependsOnData, [("body.0", "body.1")]),
}


@pytest.mark.parametrize("name", CASES)
def test_modules_that_fold(name):
    make, pairs = CASES[name]
    model = trained_norms(make()).eval()
    assert foldable(model) == pairs
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(sasa.optimize_for_inference(model)(x), model(x), rtol=1e-5, atol=1e-5)
