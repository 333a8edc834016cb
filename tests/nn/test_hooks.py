"""Hooks see the same tensors without gradients, where operators may be fused, as with gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

import sasa
from helpers import normal
from sasa.nn import attention
from sasa.nn.conv_norm_act import conv_norm_act

MAPS = normal(16, 8, 6, 5, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
NETWORKS = {"sasa_resnet26": 64, "sasa_resnet26_convstem": 64, "resnet26": 64}


class Step(nn.Module):
    """Layer, norm and sum, as in the middle and at the end of a bottleneck."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = conv, nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm_act(x, self.conv, self.norm)
        return conv_norm_act(x, self.conv, self.norm, residual=y)


def step(kind: str) -> nn.Module:
    torch.manual_seed(0)
    layers = {
        "attention": lambda: sasa.LocalAttention2d(8, 16, 3, num_heads=2),
        "strided": lambda: sasa.LocalAttention2d(8, 16, 3, 2, num_heads=2),
        "convolution": lambda: nn.Conv2d(8, 16, 1, bias=False),
    }
    made = Step(layers[kind]())
    nn.init.normal_(made.norm.running_mean)
    return made.to(memory_format=torch.channels_last).eval()


@pytest.fixture(autouse=True)
def _few_images_at_a_time(monkeypatch):
    """As at real sizes: without hooks attention projects the batch in chunks."""
    monkeypatch.setattr(attention, "PROJECTED_BYTES", 6 * 3 * 16 * 30 * 4)


def watch(kind: str, module: nn.Module, seen: list) -> None:
    """Record what a hook on the module sees, not a copy of it: it must not be overwritten later."""
    if kind == "forward":
        module.register_forward_hook(lambda m, inputs, output: seen.append((*inputs, output)))
    elif kind == "forward pre":
        module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs))
    elif kind == "full backward":
        module.register_full_backward_hook(lambda m, grads, outputs: None)
        module.register_forward_hook(lambda m, inputs, output: seen.append((*inputs, output)))
    else:
        original = module.forward
        module.forward = lambda x: seen.append((x,)) or original(x)


def runs(model: nn.Module, x: Tensor, seen: list) -> list[list]:
    """Records with gradients and without."""
    results = []
    for gradients in (True, False):
        seen.clear()
        with torch.set_grad_enabled(gradients):
            model(x)
        results.append(list(seen))
    return results


def assert_the_same(results: list[list]) -> None:
    with_gradients, without = results
    assert with_gradients
    assert len(without) == len(with_gradients)
    for one, other in zip(without, with_gradients, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hook", ["forward", "forward pre", "full backward", "forward put in"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("attention", "conv"), ("attention", "conv.qkv"), ("attention", "norm"),
        ("strided", "conv"), ("strided", "conv.qkv"), ("strided", "norm"),
        ("convolution", "conv"), ("convolution", "norm"),
    ],
)  # fmt: skip
def test_a_hook_on_a_part(kind, part, hook):
    model, seen = step(kind), []
    watch(hook, model.get_submodule(part), seen)
    results = runs(model, MAPS, seen)
    assert_the_same(results)
    assert all(sizes[0].shape[0] == 16 for sizes in results[1]), "the whole batch"


@pytest.mark.parametrize("hook", ["forward", "forward pre", "forward put in"])
def test_a_hook_runs_once_for_an_image_without_a_batch(hook):
    layer, seen = step("attention").conv, []
    watch(hook, layer, seen)
    layer(MAPS[0])
    assert [sizes[0].shape for sizes in seen] == [(8, 6, 5)]


@pytest.mark.parametrize("part", ["conv.qkv", "conv"])
@torch.no_grad()
def test_a_hook_on_a_part_of_the_projection(part):
    """A wrapped projection (LoRA, quantisation) has submodules."""
    model, seen = step("attention"), []
    model.conv.qkv = nn.Sequential(model.conv.qkv)
    model.conv.qkv[0].register_forward_hook(lambda m, inputs, output: seen.append(output))
    model(MAPS)
    assert [tuple(y.shape) for y in seen] == [(16, 48, 6, 5)] * 2


@pytest.fixture(params=["forward", "forward pre"])
def everywhere(request):
    """Names and inputs of the modules that global hooks see."""
    seen = []
    if request.param == "forward":
        handle = torch_module.register_module_forward_hook(lambda m, inputs, _: seen.append((type(m), inputs[0].shape)))
    else:
        handle = torch_module.register_module_forward_pre_hook(
            lambda m, inputs: seen.append((type(m), inputs[0].shape))
        )
    yield seen
    handle.remove()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_hooks_for_all_modules_see_all_modules(everywhere, name, training):
    side = NETWORKS[name]
    network = sasa.create_model(name, num_classes=3, width=0.25, num_heads=2).train(training)
    network = network.to(memory_format=torch.channels_last)
    x = normal(2, 3, side, side, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    with_gradients, without = runs(network, x, everywhere)
    assert without == with_gradients
    kinds = [kind for kind, _ in without]
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert kinds.count(nn.BatchNorm2d) == norms


def test_gradients_reach_full_backward_hooks_of_all_parts():
    """An in-place ReLU would change the output of torch's backward hook, which torch refuses."""
    model, seen = step("convolution").train(), []
    for part in (model.conv, model.norm):
        part.register_full_backward_hook(lambda m, inputs, outputs: seen.append(type(m)))
    model(MAPS.clone().requires_grad_()).sum().backward()
    assert sorted(kind.__name__ for kind in seen) == ["BatchNorm2d"] * 2 + ["Conv2d"] * 2


@pytest.mark.parametrize("hook", ["forward", "forward pre"])
def test_a_hook_on_the_stems_norm(hook):
    stem, seen = sasa.AttentionStem(3, 16, num_heads=2).eval(), []
    watch(hook, stem.norm, seen)
    assert_the_same(runs(stem, normal(2, 3, 8, 9, dtype=torch.float32), seen))
