"""block_attention of every back-end compared with the float64 reference, gradients included, on difficult inputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comparison import (
    ALLOCATIONS_ARE_NAN,
    BLOCK_SHAPES,
    DTYPES,
    EVERYWHERE,
    LAYOUTS,
    assert_agrees_with_reference,
    assert_block_agrees,
    block,
    block_grad_output,
    block_options,
    block_reference,
)
from helpers import (
    IMPLEMENTATIONS,
    TOLERANCE,
    assert_close,
    block_inputs,
    output_and_gradients,
    skip_unless_it_runs,
)
from sasa.ops.gpu.available import INTERPRETED

pytestmark = ALLOCATIONS_ARE_NAN
# float64 shows best whether an equation is right; the GPU kernels support float32.
EXACT = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@DTYPES
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("shape", [*BLOCK_SHAPES, (1, 1, 2, 6, 2, 13, 5, 5)], ids=str)
@EVERYWHERE
def test_block_attention(backend, device, shape, terms, values, dtype):
    tensors = block_inputs(*shape, terms=terms, values=values, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    got = assert_block_agrees(tensors, shape, backend, terms=terms, values=values)
    assert all(g is None or g.dtype == dtype for g in got)


@pytest.mark.parametrize("scale", [0.25, 0.0, -1.0])
@EXACT
@EVERYWHERE
def test_block_attention_scale(backend, device, dtype, scale):
    shape = (2, 3, 2, 4, 3, 6, 5, 4)
    tensors = block_inputs(*shape, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, dtype)
    options = {**block_options(shape, "both"), "scale": scale}
    assert_agrees_with_reference(block, tensors, grad, backend, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", ["weights", "map"])
@EVERYWHERE
def test_block_attention_layouts(backend, device, values, layout):
    shape = (2, 3, 2, 4, 4, 6, 7, 4)
    tensors = block_inputs(*shape, values=values, dtype=torch.float32, device=device)
    tensors[0] = LAYOUTS[layout](tensors[0])
    tensors[6] = None if tensors[6] is None else LAYOUTS[layout](tensors[6])
    tensors[1] = tensors[1].T.contiguous().T
    if tensors[3] is not None:  # "pointwise": one matrix, expanded over the positions
        tensors[3] = tensors[3][:1].expand(16, -1, -1)
    skip_unless_it_runs(backend, tensors[0])
    grad = LAYOUTS[layout](block_grad_output(shape, torch.float32))
    options = block_options(shape, "both")
    got = assert_agrees_with_reference(block, tensors, grad, backend, **options)
    last = torch.channels_last if "channels_last" in layout else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=last), "the output's layout follows the image"


@pytest.mark.parametrize("values", ["weights", "map"])
@EXACT
@EVERYWHERE
def test_block_attention_of_an_empty_batch(backend, device, dtype, values):
    shape = (0, 3, 2, 4, 3, 5, 6, 4)
    tensors = block_inputs(*shape, values=values, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, dtype)
    got = output_and_gradients(block, tensors, grad, **block_options(shape, "both"), backend=backend)
    assert got[0].shape == (0, 6, 5, 6)
    for tensor, gradient in zip(tensors, got[1:], strict=True):
        assert tensor is None or (gradient.shape == tensor.shape and not gradient.any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@EVERYWHERE
def test_block_attention_of_float32_embeddings_beside_another_image(backend, device, dtype):
    shape = (2, 3, 2, 4, 3, 6, 7, 4)
    tensors = block_inputs(*shape, dtype=dtype, device=device)
    tensors[4:6] = block_inputs(*shape, dtype=torch.float32, device=device)[4:6]
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, dtype)
    options = block_options(shape, "both")
    got = assert_agrees_with_reference(block, tensors, grad, backend, **options)
    assert [t.dtype for t in got if t is not None] == [dtype] * 5 + [torch.float32] * 2


@pytest.mark.parametrize(
    ("wanted", "values"),
    [(n, values) for values, missing in (("weights", 6), ("map", 3)) for n in range(7) if n != missing],
)
@EXACT
@EVERYWHERE
def test_block_attention_gradient_of_one_input_alone(backend, device, dtype, wanted, values):
    """An image needs no gradient in training: the weights' gradients must not depend on that."""
    shape = (1, 3, 2, 4, 3, 6, 5, 4)
    tensors = block_inputs(*shape, values=values, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    tensors[wanted].requires_grad_()
    grad = block_grad_output(shape, dtype).to(device)
    block(*tensors, **block_options(shape, "both"), backend=backend).backward(grad)
    want = block_reference(shape, "both", values, dtype)[1 + wanted]
    assert_close(tensors[wanted].grad, want, TOLERANCE[dtype])
    assert all(t is None or t.grad is None for n, t in enumerate(tensors) if n != wanted)


@pytest.mark.parametrize(("backend", "device"), IMPLEMENTATIONS)
@settings(max_examples=12 if INTERPRETED else 80)
@given(
    batch=st.integers(0, 3),
    channels=st.integers(1, 4),
    num_heads=st.integers(1, 3),
    half_dim=st.integers(1, 3),
    value_dim=st.integers(1, 4),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    block_size=st.integers(1, 6),
    terms=st.sampled_from(["both", "content", "relative"]),
    values=st.sampled_from(["weights", "map"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_block_attention_of_any_shape(
    backend, device, batch, channels, num_heads, half_dim, value_dim, height, width, block_size, terms, values, dtype
):
    shape = (batch, channels, num_heads, 2 * half_dim, value_dim, height, width, block_size)
    dtype = torch.float32 if backend == "triton" else dtype
    tensors = block_inputs(*shape, terms=terms, values=values, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, dtype)
    options = block_options(shape, terms)
    assert_agrees_with_reference(block, tensors, grad, backend, **options)
