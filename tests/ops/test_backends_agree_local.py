"""local_attention of every back-end compared with the float64 reference, gradients included, on difficult inputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comparison import (
    ALLOCATIONS_ARE_NAN,
    DTYPES,
    EVERYWHERE,
    LAYOUTS,
    LOCAL_NAMES,
    assert_agrees,
    assert_agrees_with_reference,
    assert_local_agrees,
    local_grad_output,
    local_options,
    local_reference,
)
from helpers import (
    IMPLEMENTATIONS,
    TOLERANCE,
    assert_close,
    double,
    local_inputs,
    normal,
    output_and_gradients,
    skip_unless_it_runs,
)
from sasa.ops import local_attention
from sasa.ops.gpu.available import INTERPRETED

pytestmark = ALLOCATIONS_ARE_NAN
# float64 shows best whether an equation is right; the GPU kernels support float32.
EXACT = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
LOCAL_SHAPES = [  # batch, heads, head_dim, value_dim, height, width, kernel_size
    (2, 2, 4, 4, 7, 5, 3),
    (1, 4, 6, 3, 13, 11, 7),
    (2, 1, 2, 3, 1, 9, 5),
    (2, 3, 2, 5, 9, 1, 3),
    (3, 2, 4, 2, 3, 2, 7),
    (1, 2, 4, 4, 1, 1, 5),
    (2, 2, 4, 4, 5, 7, 1),
    (1, 2, 4, 6, 8, 17, 9),
    (1, 1, 8, 8, 12, 10, 11),
]


@DTYPES
@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("shape", LOCAL_SHAPES, ids=str)
@EVERYWHERE
def test_local_attention(backend, device, shape, terms, padding, dtype):
    tensors = local_inputs(*shape, terms=terms, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    got = assert_local_agrees(tensors, shape, backend, terms=terms, padding=padding)
    assert all(g is None or g.dtype == dtype for g in got)


@pytest.mark.parametrize("scale", [0.25, 3.0, 0.0, -1.0])
@pytest.mark.parametrize("terms", ["both", "relative"])
@EXACT
@EVERYWHERE
def test_local_attention_scale(backend, device, dtype, terms, scale):
    shape = (2, 2, 4, 3, 6, 5, 3)
    tensors = local_inputs(*shape, terms=terms, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    assert_local_agrees(tensors, shape, backend, terms=terms, scale=scale)


@pytest.mark.parametrize("head_dim", [1, 3])
@EXACT
@EVERYWHERE
def test_local_attention_of_an_odd_head_dim(backend, device, dtype, head_dim):
    shape = (1, 2, head_dim, 5, 6, 5, 3)
    tensors = local_inputs(*shape, terms="content", dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    assert_local_agrees(tensors, shape, backend, terms="content", padding="mask")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", [(0, 1, 2), (0,), (1,), (2,)], ids=["all", "query", "key", "value"])
@EVERYWHERE
def test_local_attention_layouts(backend, device, layout, which):
    shape = (2, 2, 4, 4, 6, 5, 3)
    tensors = local_inputs(*shape, dtype=torch.float32, device=device)
    for index in which:
        tensors[index] = LAYOUTS[layout](tensors[index])
    skip_unless_it_runs(backend, tensors[0])
    grad = LAYOUTS[layout](local_grad_output(shape, torch.float32))
    options = local_options(shape, "zeros", "both")
    got = assert_agrees_with_reference(local_attention, tensors, grad, backend, **options)
    last = torch.channels_last if "channels_last" in layout and 0 in which else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=last), "the output's layout follows query"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@EVERYWHERE
def test_local_attention_of_the_chunks_of_one_map(backend, device, memory_format):
    """As in a layer: q, k and v are views of one projection, and their gradients are summed in that map."""
    shape = (2, 2, 4, 4, 6, 5, 3)
    qkv = normal(2, 24, 6, 5, dtype=torch.float32, device=device).contiguous(memory_format=memory_format)
    rel = local_inputs(*shape, dtype=torch.float32, device=device)[3:]
    skip_unless_it_runs(backend, qkv)

    def attend(qkv, rel_row, rel_col, **options):
        return local_attention(*qkv.chunk(3, dim=1), rel_row, rel_col, **options)

    grad = local_grad_output(shape, torch.float32)
    options = local_options(shape, "mask", "both")
    got = output_and_gradients(attend, [qkv, *rel], grad, **options, backend=backend)
    want = output_and_gradients(attend, double([qkv, *rel]), grad.double(), **options, backend="reference")
    assert_agrees(got, want, torch.float32, grad, ("qkv", "rel_row", "rel_col"))
    assert got[0].is_contiguous(memory_format=memory_format)


@EXACT
@EVERYWHERE
def test_local_attention_of_expanded_embeddings_and_an_expanded_gradient(backend, device, dtype):
    """One row embedding for all heads, by expand; and the stride-0 gradient that sum() sends back."""
    shape = (1, 2, 4, 4, 5, 6, 3)
    tensors = local_inputs(*shape, dtype=dtype, device=device)
    tensors[3] = tensors[3][:1].expand(2, -1, -1)
    tensors[4] = tensors[4].mT.contiguous().mT
    skip_unless_it_runs(backend, tensors[0])
    grad = torch.ones((), dtype=dtype).expand(1, 8, 5, 6)
    options = local_options(shape, "zeros", "both")
    assert_agrees_with_reference(local_attention, tensors, grad, backend, **options)


@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@EXACT
@EVERYWHERE
def test_local_attention_of_an_empty_batch(backend, device, dtype, terms):
    shape = (0, 2, 4, 3, 5, 6, 3)
    tensors = local_inputs(*shape, terms=terms, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, dtype)
    got = output_and_gradients(local_attention, tensors, grad, **local_options(shape, "zeros", terms), backend=backend)
    assert got[0].shape == (0, 6, 5, 6)
    for tensor, gradient in zip(tensors, got[1:], strict=True):
        assert tensor is None or (gradient.shape == tensor.shape and not gradient.any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@EVERYWHERE
def test_local_attention_of_float32_embeddings_beside_another_query(backend, device, dtype):
    shape = (2, 2, 8, 4, 9, 7, 5)
    tensors = local_inputs(*shape, dtype=dtype, device=device)
    tensors[3:] = local_inputs(*shape, dtype=torch.float32, device=device)[3:]
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, dtype)
    options = local_options(shape, "zeros", "both")
    got = output_and_gradients(local_attention, tensors, grad, **options, backend=backend)
    want = output_and_gradients(local_attention, double(tensors), grad.double(), **options, backend="reference")
    assert [t.dtype for t in got] == [dtype] * 4 + [torch.float32] * 2
    assert_agrees(got[:4], want[:4], dtype, grad, LOCAL_NAMES[:3])
    # The embeddings' gradients are never rounded to half precision; the output is.
    worst = torch.float32 if dtype == torch.float64 else dtype
    assert_agrees([got[0], *got[4:]], [want[0], *want[4:]], worst, grad, LOCAL_NAMES[3:])


@pytest.mark.parametrize("wanted", range(5), ids=LOCAL_NAMES)
@EXACT
@EVERYWHERE
def test_local_attention_gradient_of_one_input_alone(backend, device, dtype, wanted):
    shape = (1, 2, 4, 3, 6, 5, 3)
    tensors = local_inputs(*shape, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    tensors[wanted].requires_grad_()
    grad = local_grad_output(shape, dtype).to(device)
    local_attention(*tensors, **local_options(shape, "mask", "both"), backend=backend).backward(grad)
    want = local_reference(shape, "mask", "both", dtype)[1 + wanted]
    assert_close(tensors[wanted].grad, want, TOLERANCE[dtype])
    assert all(t.grad is None for n, t in enumerate(tensors) if n != wanted)


@pytest.mark.parametrize("padding", ["zeros", "mask"])
@EVERYWHERE
def test_local_attention_of_large_logits(backend, device, padding):
    """Logits of several hundred: a softmax that does not subtract the maximum overflows."""
    shape = (1, 2, 4, 4, 6, 5, 3)
    tensors = [30 * t for t in local_inputs(*shape, dtype=torch.float32, device=device)]
    skip_unless_it_runs(backend, tensors[0])
    options = local_options(shape, padding, "both")
    got = local_attention(*tensors, **options, backend=backend)
    # Logits near 1000 are rounded at 6e-5 in float32, and so are the weights, relatively.
    assert_close(got, local_attention(*double(tensors), **options, backend="reference"), 1e-3)


@EXACT
@EVERYWHERE
def test_inputs_are_left_as_they_were(backend, device, dtype):
    tensors = local_inputs(1, 2, 4, 4, 6, 5, 3, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    before = [t.clone() for t in tensors]
    output_and_gradients(
        local_attention, tensors, normal(1, 8, 6, 5), kernel_size=3, num_heads=2, scale=0.5, backend=backend
    )
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize(("backend", "device"), IMPLEMENTATIONS)
@settings(max_examples=12 if INTERPRETED else 80)
@given(
    batch=st.integers(0, 3),
    num_heads=st.integers(1, 4),
    half_dim=st.integers(1, 4),
    value_dim=st.integers(1, 5),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    half_kernel=st.integers(0, 5),
    padding=st.sampled_from(["zeros", "mask"]),
    terms=st.sampled_from(["both", "content", "relative"]),
    layout=st.sampled_from(["contiguous", "channels_last", "transposed", "sliced"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_local_attention_of_any_shape(
    backend, device, batch, num_heads, half_dim, value_dim, height, width, half_kernel, padding, terms, layout, dtype
):
    shape = (batch, num_heads, 2 * half_dim, value_dim, height, width, 2 * half_kernel + 1)
    dtype = torch.float32 if backend == "triton" else dtype
    tensors = local_inputs(*shape, terms=terms, dtype=dtype, device=device)
    tensors[:3] = [None if t is None else LAYOUTS[layout](t) for t in tensors[:3]]
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, dtype)
    options = local_options(shape, padding, terms)
    assert_agrees_with_reference(local_attention, tensors, grad, backend, **options)
