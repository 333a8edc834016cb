"""Attributes of a layer that are changed after construction: a new value counts, or is refused, with every kernel."""

import pytest
import torch

import sasa
from helpers import WITHOUT_KERNELS
from processes import run_pytest
from sasa.ops import native

REFUSED = (RuntimeError, ValueError, TypeError)  # the kernels' errors are torch's
POSITIONS = [  # options, name, value, sentence: refused by a layer and by a stem
    ({}, "position", "bananas", "position must be one of relative, absolute, none; got 'bananas'"),
    ({"position": "none"}, "position", "relative", "but the layer was constructed without relative"),
    ({"content": False}, "position", "none", 'content=False needs position="relative"'),
]


def layer(**options):
    torch.manual_seed(0)
    return sasa.LocalAttention2d(8, 24, **{"kernel_size": 3, "num_heads": 2, **options})


def stem(**options):
    torch.manual_seed(0)
    return sasa.AttentionStem(3, 16, block_size=2, num_heads=2, **options)


def run(module, mode, size=5):
    x = torch.randn(2, module.in_channels, size, size)
    if mode == "weights":
        return module.attention_weights(x)
    if mode == "training":
        y = module.train()(x)
        y.sum().backward()
        return y
    with torch.no_grad():
        return module.eval()(x)


def assert_refused(module, name, value, sentence, *how):
    setattr(module, name, value)
    with pytest.raises(REFUSED, match=sentence):
        run(module, *how)


@pytest.mark.parametrize("mode", ["training", "inference", "weights"])
@pytest.mark.parametrize("size", [1, 5])  # on a map of one pixel wrong shapes might broadcast
@pytest.mark.parametrize(
    ("options", "name", "value", "sentence"),
    [
        ({}, "padding", "bananas", 'padding must be "zeros" or "mask"'),
        ({}, "padding", 1, "padding"),
        ({}, "kernel_size", 5, "rel_row"),
        ({}, "kernel_size", 1, "rel_row"),
        ({}, "kernel_size", 4, "kernel_size"),
        ({"position": "none"}, "kernel_size", 4, "kernel_size"),
        ({"position": "none"}, "kernel_size", 0, "kernel_size"),
        ({"position": "none"}, "kernel_size", -3, "kernel_size"),
        ({}, "num_heads", 1, "rel_row"),
        ({}, "num_heads", 4, "rel_row"),
        ({"position": "none"}, "num_heads", 5, "num_heads"),
        ({"position": "none"}, "num_heads", 0, "num_heads"),
        *POSITIONS,
        ({}, "content", False, "with content=False the projection must have 2 .* channels, got 72"),
        ({"content": False}, "content", True, "with content=True the projection must have 3 .* channels, got 48"),
        ({}, "out_channels", 48, r"the projection must have 3 \* out_channels \(48\) channels, got 72"),
        ({}, "scale", "large", "large"),
    ],
)
def test_values_that_a_layer_refuses(options, name, value, sentence, mode, size):
    assert_refused(layer(**options), name, value, sentence, mode, size)


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", (2, 2), True])
def test_strides_that_a_layer_refuses(value, mode):
    changed = layer()
    changed.stride = value
    with pytest.raises(ValueError, match="stride must be a positive integer, got "):
        run(changed, mode)


@pytest.mark.parametrize("mode", ["training", "inference", "weights"])
@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({}, "padding", "mask"),
        ({}, "stride", 2),
        ({}, "stride", 3),
        ({}, "scale", 0.5),
        ({"position": "none"}, "kernel_size", 5),
        ({"position": "none"}, "num_heads", 3),
        ({"position": "none"}, "position", "absolute"),
        ({}, "position", "none"),
    ],
)
def test_values_that_count(options, name, value, mode):
    changed, made = layer(**options), layer(**{**options, name: value})
    setattr(changed, name, value)
    made.load_state_dict(changed.state_dict(), strict=False)
    torch.manual_seed(1)
    found = run(changed, mode)
    torch.manual_seed(1)
    assert torch.equal(found, run(made, mode))


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize(
    ("options", "name", "value", "sentence"),
    [
        ({}, "block_size", 4, "rel_row|w_value"),
        ({"position": "none"}, "block_size", 4, "w_value"),
        ({}, "block_size", 0, "w_value|block_size"),
        ({}, "num_heads", 1, "rel_row"),
        ({"position": "none"}, "num_heads", 5, "num_heads"),
        *POSITIONS,
        ({}, "content", False, "content is False, but w_key is given"),
        ({"content": False}, "content", True, "content is True, but w_key is None"),
    ],
)
def test_values_that_a_stem_refuses(options, name, value, sentence, mode):
    assert_refused(stem(**options), name, value, sentence, mode)


@WITHOUT_KERNELS
@pytest.mark.skipif(native.missing() is not None, reason="the tests above have run without kernels")
def test_the_same_without_kernels():
    run_pytest(__file__, SASA_CPU="off")
