"""`sasa.count` against counts by hand, and its effect on the model."""

import copy

import pytest
import torch
from torch import nn

import sasa


def costs(count) -> tuple[int, int, int]:
    return count.flops, count.flops_simple, count.flops_calibrated


def test_convolution_norm_relu_and_pools():
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 1, 1),
        nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    count = sasa.count(layers, (16, 20))
    pixels = 8 * 10  # after the stride
    products = 2 * pixels * 8 * 27 + 2 * 8 * 10
    map_ = pixels * 8
    elementwise = 4 * map_ + map_ + 9 * map_ + map_ + map_ // 4  # norm, ReLU, the three pools
    assert costs(count) == (products, products, products + elementwise)
    assert count.macs == products // 2
    assert count.parameters == 8 * 27 + 2 * 8 + 8 * 10 + 10
    assert count.input_size == (3, 16, 20)
    assert costs(count.by_module["0"]) == (2 * pixels * 8 * 27,) * 3
    assert costs(count.by_module["1"]) == (0, 0, 4 * map_)
    assert count.by_module["7"].parameters == 90


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("position", "content"), [("relative", True), ("none", True), ("relative", False)])
def test_one_attention_layer(position, content, stride):
    into, out, k, heads, pixels = 6, 16, 5, 2, 7 * 9
    layer = sasa.LocalAttention2d(into, out, k, stride, num_heads=heads, position=position, content=content)
    count = sasa.count(layer, (7, 9))
    relative = position == "relative"
    projections = 2 * pixels * into * out * (3 if content else 2)
    products = projections + 2 * pixels * k * k * out * (1 + content)  # a.v, q.k
    factorised = 2 * pixels * (k * out // 2 + k * out // 2) * relative
    added = pixels * k * k * out if content else factorised  # k + r, if there are keys
    pool = stride**2 * 4 * 5 * out * (stride == 2)
    assert count.flops == products + factorised
    assert count.flops_simple == products + 2 * pixels * k * k * out * relative
    assert count.flops_calibrated == products + added * relative + 5 * pixels * k * k * heads + pool
    assert count.parameters == into * out * (3 if content else 2) + k * out * relative


@pytest.mark.parametrize("values", ["mixture", "pointwise", "convolution"])
def test_one_stem(values):
    stem = sasa.AttentionStem(3, 16, block_size=4, num_heads=2, values=values, num_mixtures=5)
    count = sasa.count(stem, (8, 12))
    pixels, d, keys, heads, head_dim = 8 * 12, 16, 16, 2, 8
    attention = 2 * 2 * pixels * 3 * d + 2 * 2 * pixels * keys * d  # q and k; q.k and a.v
    one_matrix = {"convolution": 2 * pixels * 16 * 3 * d}.get(values, 2 * pixels * 3 * d)
    per_pixel = 2 * pixels * 5 * (3 * d + d) if values == "mixture" else one_matrix  # as the paper counts
    mixing = 2 * keys * (head_dim * 5 + 5 * d * 3) * (values == "mixture")  # once an image: (emb . nu), p W
    factorised = 2 * pixels * 4 * d  # 4 rows and 4 columns, half of the channels each
    assert count.flops == attention + one_matrix + factorised + mixing
    assert count.flops_simple == attention + per_pixel + 2 * pixels * keys * d
    norm_relu_pool = 4 * pixels * d + pixels * d + pixels * d
    logits = pixels * keys * d + 5 * pixels * keys * heads  # k + r, softmax
    assert count.flops_calibrated == attention + per_pixel + logits + norm_relu_pool


def test_residual_addition_and_modules_add_up():
    count = sasa.count(sasa.create_model("sasa_resnet26", width=0.25, num_classes=7), 64)
    top = [count.by_module[name] for name in ("stem", "layer1", "layer2", "layer3", "layer4", "fc")]
    assert sum(c.parameters for c in top) == count.parameters
    assert sum(c.flops for c in top) == count.flops
    assert sum(c.flops_simple for c in top) == count.flops_simple
    assert sum(c.flops_calibrated for c in top) + 512 * 2 * 2 == count.flops_calibrated  # the mean over the last map
    block = count.by_module["layer1.0"].flops_calibrated
    inside = sum(
        count.by_module[f"layer1.0.{name}"].flops_calibrated
        for name in ("down", "norm1", "spatial", "norm2", "up", "norm3", "shortcut")
    )
    assert block - inside == 16 * 16 * (16 + 16 + 64 + 64)  # ReLU, ReLU, addition, ReLU


def test_the_model_is_not_changed():
    model = sasa.create_model("sasa_resnet26", width=0.25, num_classes=10)
    model.train()
    model.stem.backend = "reference"
    before, modules = copy.deepcopy(model.state_dict()), [(name, type(m)) for name, m in model.named_modules()]
    random = torch.get_rng_state()
    sasa.count(model, 32)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert [(name, type(m)) for name, m in model.named_modules()] == modules
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert "mixed_values" not in vars(model.stem)
    assert model.stem.backend == "reference"
    assert torch.equal(torch.get_rng_state(), random)


def test_back_end_dtype_and_mode_change_nothing():
    def layer(**options):
        return sasa.LocalAttention2d(8, 16, 3, num_heads=2, **options)

    want = sasa.count(layer(), 9)
    assert sasa.count(layer(backend="reference"), 9) == want
    assert sasa.count(layer(backend="eager"), 9) == want
    assert sasa.count(layer(dtype=torch.float16), 9) == want
    assert sasa.count(layer(device="meta"), 9) == want
    assert sasa.count(layer().eval(), 9) == want


def test_nothing_is_allocated():
    side = 200_000  # an image of 480 GB
    assert sasa.count(nn.Conv2d(3, 64, 7, bias=False), side).macs == (side - 6) ** 2 * 64 * 147


def test_other_networks():
    torchvision = pytest.importorskip("torchvision")
    theirs, ours = (sasa.count(model, 224) for model in (torchvision.models.resnet50(), sasa.create_model("resnet50")))
    assert costs(theirs) == costs(ours)
    assert theirs.parameters == ours.parameters


def test_shared_modules_and_tensors_outside_of_parameters():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.Conv2d(4, 4, 1, bias=False)
            self.shift = torch.ones(4, 1, 1)  # neither a parameter nor a buffer

        def forward(self, x):
            return self.second(self.first(x) + self.shift)

    count = sasa.count(Shared(), 5)
    assert count.parameters == 16
    assert costs(count) == (2 * 2 * 25 * 16, 2 * 2 * 25 * 16, 2 * 2 * 25 * 16 + 25 * 4)
    assert [cost.flops for cost in count.by_module.values()] == [2 * 2 * 25 * 16]


@pytest.mark.parametrize(
    ("input_size", "size"), [(8, (6, 8, 8)), ((8, 9), (6, 8, 9)), ((6, 8, 9), (6, 8, 9)), ([8, 9], (6, 8, 9))]
)
def test_input_sizes(input_size, size):
    assert sasa.count(sasa.LocalAttention2d(6, 16, 3), input_size).input_size == size


@pytest.mark.parametrize("input_size", [0, (8,), (1, 2, 3, 4), (8, -1), (8.0, 8), "224"])
def test_input_size_of_another_form(input_size):
    with pytest.raises(ValueError, match=r"input_size must be a side, \(H, W\) or \(C, H, W\) in pixels, got"):
        sasa.count(nn.Conv2d(3, 4, 3), input_size)
