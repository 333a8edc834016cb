"""Half precision: operators and layers under autocast round inputs only, and kernels round each number once."""

import pytest
import torch

import sasa
from helpers import NEEDS_KERNELS, assert_close, backend_params, normal, output_and_gradients
from operators import BACKEND, OPERATORS, leaves, qkv_attention, qkv_attention_inference
from sasa.errors import ArgumentError


def half_but_embeddings(tensors):
    """The inputs as autocast converts them: all but the relative embeddings, which follow q, k and v."""
    embeddings = (3, 4) if len(tensors) == 5 else (4, 5)
    return [t if t is None or n in embeddings else t.bfloat16() for n, t in enumerate(tensors)]


@OPERATORS
@pytest.mark.parametrize("backend", backend_params("auto", "eager", "reference"))
def test_autocast_rounds_inputs_and_nothing_else(operator, make_inputs, backend):
    tensors = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = operator(*tensors, backend=backend)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, operator(*half_but_embeddings(tensors), backend=backend))


@OPERATORS
@BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_backward_inside_autocast_is_the_one_outside(operator, make_inputs, backend, dtype):
    """Bit for bit: no product of the backward pass, the embeddings' gradients included, is computed in bfloat16."""
    tensors = make_inputs(dtype=torch.float32)
    if dtype == torch.bfloat16:
        tensors = half_but_embeddings(tensors)
    grad = normal(*operator(*tensors).shape, seed=3, dtype=dtype)
    grads = []
    for inside in (False, True):
        inputs = leaves(tensors)
        output = operator(*inputs, backend=backend)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            output.backward(grad)
        grads.append([t.grad for t in inputs if t is not None])
    for outside, inside in zip(*grads, strict=True):
        assert torch.equal(outside, inside)


@OPERATORS
@BACKEND
def test_training_under_autocast(operator, make_inputs, backend):
    """Forward and backward inside: float32 gradients for float32 inputs, near the exact ones."""
    tensors = make_inputs(dtype=torch.float32)
    want = output_and_gradients(operator, tensors, torch.ones_like(operator(*tensors)), backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        got = output_and_gradients(operator, tensors, torch.ones_like(want[0]), backend=backend)
    assert got[0].dtype == torch.bfloat16
    for one, expected in zip(got[1:], want[1:], strict=True):
        assert (one is None) == (expected is None)
        if one is not None:
            assert one.dtype == torch.float32
            assert_close(one, expected, 5e-2)


@OPERATORS
def test_autocast_leaves_float64_alone(operator, make_inputs):
    tensors = make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        got = operator(*tensors)
    assert torch.equal(got, operator(*tensors))


@OPERATORS
def test_autocast_does_not_make_numbers_of_integers(operator, make_inputs):
    tensors = [t if t is None else t.to(torch.uint8) for t in make_inputs()]
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ArgumentError, match=r"must be floating point, got.*uint8"),
    ):
        operator(*tensors)


def test_a_layer_under_autocast_keeps_its_embeddings():
    layer = sasa.LocalAttention2d(3, 8, kernel_size=3, num_heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(1, 3, 6, 6))
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.rel_row.grad.dtype == torch.float32


# Conversion of every float16 and bfloat16 number to float32 and back in the CPU kernels, rounded once.
# With a window of one pixel attention returns the value.
OPTIONS = {"kernel_size": 1, "num_heads": 1, "padding": "zeros", "scale": 1.0, "content": True}
IN_EVERY_LAYOUT = pytest.mark.parametrize(
    ("dtype", "channels", "width", "memory_format"),
    [
        (dtype, channels, width, memory_format)
        for dtype in (torch.float16, torch.bfloat16)
        for channels, width in ((8, 128), (64, 16), (1, 1024))
        for memory_format in (torch.contiguous_format, torch.channels_last)
    ],
    ids=str,
)


def every_number(dtype, channels, width):
    """All 65536 numbers as a map."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    return bits.view(dtype).reshape(1, channels, -1, width)


def qkv_of(value, memory_format):
    """Zero queries and keys, and the values, in one map."""
    zeros = torch.zeros_like(value)
    return torch.cat([zeros, zeros, value], 1).contiguous(memory_format=memory_format)


def exactly(got, want):
    """Whether all numbers are equal, NaN included. The sign of zero may differ: a sum that starts at 0 loses it."""
    return bool(((got == want) | (got.isnan() & want.isnan())).all())


@NEEDS_KERNELS
@IN_EVERY_LAYOUT
def test_every_number_comes_back_as_it_was(dtype, channels, width, memory_format):
    value = every_number(dtype, channels, width)
    assert exactly(qkv_attention(qkv_of(value, memory_format), **OPTIONS), value)


@NEEDS_KERNELS
@IN_EVERY_LAYOUT
def test_a_product_is_rounded_as_torch_rounds_it(dtype, channels, width, memory_format):
    value = every_number(dtype, channels, width)
    gain = normal(channels, seed=1, dtype=torch.float32)
    gain[::2] *= 1e-2  # products that become subnormal; the others reach infinity
    gain[1::2] *= 1e2
    qkv = qkv_of(value, memory_format)
    got = qkv_attention_inference(qkv, None, None, gain, None, relu=False, pool=1, **OPTIONS)
    assert exactly(got, (value.float() * gain[:, None, None]).to(dtype))
