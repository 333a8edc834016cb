"""The operators and their layers under autocast: inputs are rounded, and nothing else."""

import pytest
import torch

import sasa
from helpers import assert_close, backend_params, normal, output_and_gradients
from operators import BACKEND, OPERATORS, leaves


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


def test_a_layer_under_autocast_keeps_its_embeddings():
    layer = sasa.LocalAttention2d(3, 8, kernel_size=3, num_heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(1, 3, 6, 6))
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.rel_row.grad.dtype == torch.float32
