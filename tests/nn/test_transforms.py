"""Layers and networks under torch.func, vmap, forward mode and second derivatives, with the default back-end."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import sasa
from helpers import assert_close, normal

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # vmap loops over the gradient of unfold
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # torch's forward-mode formulas use it
]
LAYERS = {
    "attention": (lambda: sasa.LocalAttention2d(4, 4, 3, 2, num_heads=2), 4),
    "absolute": (lambda: sasa.LocalAttention2d(4, 4, 3, num_heads=2, position="absolute"), 4),
    "stem": (lambda: sasa.AttentionStem(3, 4, num_heads=2, norm=False), 3),
    "stem with its norm": (lambda: sasa.AttentionStem(3, 4, num_heads=2).eval(), 3),
}
SMALL = {"layers": (1, 1, 1, 1), "width": 0.1, "num_heads": 2, "kernel_size": 3, "num_classes": 3}
FORMATS = [torch.contiguous_format, torch.channels_last]
NETWORKS = {
    "network": lambda: sasa.create_model("sasa_resnet26", **SMALL),
    "converted": lambda: sasa.convert(sasa.create_model("resnet26", **SMALL), num_heads=2),
}


def with_reference(model):
    """The same model with the equation in plain torch in every layer and nothing fused: forward hooks forbid it."""
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
        if hasattr(module, "backend"):
            module.backend = "reference"
    return model


def pair(make):
    """A model, and one with the same parameters in plain torch."""
    torch.manual_seed(0)
    model = make().double()
    torch.manual_seed(0)
    return model, with_reference(make().double())


def parameters(model):
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", LAYERS)
def test_transforms_of_a_layer(name):
    make, channels = LAYERS[name]
    model, reference = pair(make)
    x, step = normal(2, channels, 4, 5), normal(2, channels, 4, 5, seed=1)
    for transform in (
        lambda f: grad(lambda t: f(t).pow(3).sum())(x),
        lambda f: jacrev(lambda t: f(t).sum((2, 3)))(x),
        lambda f: jvp(f, (x,), (step,))[1],
        lambda f: jvp(grad(lambda t: f(t).pow(3).sum()), (x,), (step,))[1],
        lambda f: hessian(lambda s: f(x + s * step).pow(3).sum())(torch.zeros((), dtype=x.dtype)),
    ):
        got, want = transform(model), transform(reference)
        assert want.abs().max() > 1e-4
        assert_close(got, want, 1e-9)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["first", "last"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: sasa.LocalAttention2d(3, 4, 3, num_heads=1),
        lambda: sasa.AttentionStem(3, 4, num_heads=1, norm=False, pool=False),
    ],
    ids=["attention", "stem"],
)
def test_batch_norm_of_one_image(make, memory_format):
    """Its gradients in torch are wrong for one image with unusual strides."""
    model = torch.nn.Sequential(make(), torch.nn.BatchNorm2d(4)).double().eval()
    image, weights = normal(1, 3, 6, 5).to(memory_format=memory_format), normal(1, 4, 6, 5, seed=1)
    got = grad(lambda t: (model(t) * weights).sum())(image)
    (want,) = torch.autograd.grad(model(image.requires_grad_()), image, weights)
    assert_close(got, want, 1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_each_sample(name):
    model, reference = (m.eval() for m in pair(NETWORKS[name]))
    images, labels = normal(3, 3, 16, 20), torch.tensor([0, 2, 1])

    def loss(values, image, label):
        return torch.nn.functional.cross_entropy(functional_call(model, values, image[None]), label[None])

    each = vmap(grad(loss), (None, 0, 0))(parameters(model), images, labels)
    for n in range(3):
        reference.zero_grad()
        torch.nn.functional.cross_entropy(reference(images[n : n + 1]), labels[n : n + 1]).backward()
        for key, p in reference.named_parameters():
            assert_close(each[key][n], p.grad, 1e-8, otherwise=1.0, name=key)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS, ids=["first", "last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gradient_penalty(name, memory_format, training):
    """As for the critic of a GAN, the squared gradient of the output by the image is part of the loss."""
    results = []
    for model in pair(NETWORKS[name]):
        model.float().train(training).to(memory_format=memory_format)
        images = normal(2, 3, 16, 20, dtype=torch.float32).to(memory_format=memory_format).requires_grad_()
        (slope,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
        slope.square().sum().backward()
        results.append([p.grad for p in model.parameters()])
    assert any(grad.abs().max() > 1e-3 for grad in results[1] if grad is not None)
    size = max(grad.norm().item() for grad in results[1] if grad is not None)
    for got, want in zip(*results, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert_close(got, want, 2e-3, otherwise=size)


@pytest.mark.parametrize("gradients", ["all", "of the image", "none"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_forward_mode(name, training, gradients):
    """The fused operators, which have no tangent, are not used, whether or not reverse mode records anything."""
    make, channels = LAYERS.get(name) or (NETWORKS[name], 3)
    tangents = []
    for model in pair(make):
        model.float().train(training).to(memory_format=torch.channels_last).requires_grad_(gradients == "all")
        image, step = (normal(2, channels, 16, 20, seed=n, dtype=torch.float32) for n in (0, 1))
        with torch.set_grad_enabled(gradients != "none"), forward_ad.dual_level():
            output = model(forward_ad.make_dual(image.to(memory_format=torch.channels_last), step))
            tangents.append(forward_ad.unpack_dual(output).tangent)
    assert tangents[1].abs().max() > 1e-4
    assert_close(*tangents, 1e-3)


def test_an_ensemble_by_vmap():
    """Networks of stacked parameters, without gradients and with those of autograd outside."""
    models = [sasa.LocalAttention2d(4, 4, 3, num_heads=2).double() for _ in range(2)]
    values, _ = torch.func.stack_module_state(models)
    x = normal(2, 4, 5, 6)
    got = vmap(lambda v: functional_call(models[0], v, x))(values)
    assert_close(got, torch.stack([m(x) for m in models]))
    with torch.no_grad():
        assert_close(vmap(lambda v: functional_call(models[0], v, x))(values), got)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["first", "last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_batches_by_vmap(name, memory_format):
    """In float32, for which networks on a CPU have operators of their own, with and without gradients outside."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().to(memory_format=memory_format)
    batches = normal(2, 2, 3, 16, 20, dtype=torch.float32)
    want = torch.stack([model(batch) for batch in batches])
    assert_close(vmap(model)(batches), want, 1e-4)
    with torch.no_grad():
        assert_close(vmap(model)(batches), want, 1e-4)
