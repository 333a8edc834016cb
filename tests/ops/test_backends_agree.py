"""Every back-end against the float64 reference: the output and every gradient, on shapes and layouts that hurt.

A new entry of `BACKENDS` takes part by itself. Memory that a back-end allocates is filled with NaN first, so that
what it forgets to write is seen.
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import (
    IMPLEMENTATIONS,
    TOLERANCE,
    assert_close,
    block_inputs,
    double,
    local_inputs,
    normal,
    output_and_gradients,
    skip_unless_it_runs,
)
from sasa.ops import block_attention, eager, eager_block, local_attention

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
EVERYWHERE = pytest.mark.parametrize(("backend", "device"), IMPLEMENTATIONS)


@pytest.fixture(autouse=True)
def _allocations_are_nan():
    """torch.empty gives NaN while deterministic algorithms are asked for."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def assert_agrees(got: list, want: list, dtype: torch.dtype, grad_output: torch.Tensor, names: tuple[str, ...]) -> None:
    """Output and gradients within the tolerance of their dtype; a gradient exists where the input did."""
    size = grad_output.double().norm().item()
    for name, one, judge in zip(("output", *names), got, want, strict=True):
        assert (one is None) == (judge is None), name
        if one is not None:
            assert_close(one, judge, TOLERANCE[dtype], otherwise=size, name=name)


# ------------------------------------------------------------------------------------------------ local_attention

LOCAL_NAMES = ("query", "key", "value", "rel_row", "rel_col")
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


def local_options(shape: tuple[int, ...], padding: str, terms: str, scale: float = 1.0) -> dict:
    return {
        "kernel_size": shape[-1],
        "num_heads": shape[1],
        "padding": padding,
        "content": terms != "relative",
        "scale": scale,
    }


def local_grad_output(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    batch, heads, _, value_dim, height, width, _ = shape
    return normal(batch, heads * value_dim, height, width, seed=99, dtype=dtype)


@cache
def local_judge(shape, padding, terms, dtype, scale=1.0):
    """The reference's output and gradients in float64, of inputs rounded to dtype."""
    tensors = double(local_inputs(*shape, terms=terms, dtype=dtype))
    grad = local_grad_output(shape, dtype).double()
    options = local_options(shape, padding, terms, scale)
    return output_and_gradients(local_attention, tensors, grad, **options, backend="reference")


@DTYPES
@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("shape", LOCAL_SHAPES, ids=str)
@EVERYWHERE
def test_local_attention(backend, device, shape, terms, padding, dtype):
    tensors = local_inputs(*shape, terms=terms, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, dtype)
    got = output_and_gradients(local_attention, tensors, grad, **local_options(shape, padding, terms), backend=backend)
    assert all(g is None or g.dtype == dtype for g in got)
    assert_agrees(got, local_judge(shape, padding, terms, dtype), dtype, grad, LOCAL_NAMES)


@pytest.mark.parametrize("scale", [0.25, 3.0, 0.0, -1.0])
@pytest.mark.parametrize("terms", ["both", "relative"])
@EVERYWHERE
def test_local_attention_scale(backend, device, terms, scale):
    shape = (2, 2, 4, 3, 6, 5, 3)
    tensors = local_inputs(*shape, terms=terms, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, torch.float64)
    got = output_and_gradients(
        local_attention, tensors, grad, **local_options(shape, "zeros", terms, scale), backend=backend
    )
    want = local_judge(shape, "zeros", terms, torch.float64, scale)
    assert_agrees(got, want, torch.float64, grad, LOCAL_NAMES)


@pytest.mark.parametrize("head_dim", [1, 3])
@EVERYWHERE
def test_local_attention_of_an_odd_head_dim(backend, device, head_dim):
    shape = (1, 2, head_dim, 5, 6, 5, 3)
    tensors = local_inputs(*shape, terms="content", device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, torch.float64)
    got = output_and_gradients(
        local_attention, tensors, grad, **local_options(shape, "mask", "content"), backend=backend
    )
    assert_agrees(got, local_judge(shape, "mask", "content", torch.float64), torch.float64, grad, LOCAL_NAMES)


def sliced(t: torch.Tensor) -> torch.Tensor:
    """The same numbers in the middle of a larger map of NaN: a read beyond the map is seen."""
    batch, channels, height, width = t.shape
    larger = t.new_full((batch + 1, channels + 2, height + 2, width + 3), float("nan"))
    larger[:batch, 1:-1, 1:-1, 1:-2] = t
    return larger[:batch, 1:-1, 1:-1, 1:-2]


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "sliced": sliced,
    "channels_last_sliced": lambda t: (
        torch.cat([t, t.new_full(t.shape, float("nan"))], 1)
        .contiguous(memory_format=torch.channels_last)
        .chunk(2, dim=1)[0]
    ),
    "batch_last": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "expanded_batch": lambda t: t[:1].expand(t.shape),
    "expanded_width": lambda t: t[..., :1].expand(t.shape),
    "expanded_channels": lambda t: t[:, :1].expand(t.shape),
}


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
    got = output_and_gradients(local_attention, tensors, grad, **options, backend=backend)
    want = output_and_gradients(local_attention, double(tensors), grad.double(), **options, backend="reference")
    assert_agrees(got, want, torch.float32, grad, LOCAL_NAMES)
    last = torch.channels_last if "channels_last" in layout and 0 in which else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=last), "the output's layout follows query"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@EVERYWHERE
def test_local_attention_of_the_chunks_of_one_map(backend, device, memory_format):
    """What a layer does: q, k and v are views of one projection, and the gradients meet in that map."""
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


@EVERYWHERE
def test_local_attention_of_expanded_embeddings_and_an_expanded_gradient(backend, device):
    """One row embedding for all heads, by expand; and the stride-0 gradient that sum() sends back."""
    shape = (1, 2, 4, 4, 5, 6, 3)
    tensors = local_inputs(*shape, device=device)
    tensors[3] = tensors[3][:1].expand(2, -1, -1)
    tensors[4] = tensors[4].mT.contiguous().mT
    skip_unless_it_runs(backend, tensors[0])
    grad = torch.ones((), dtype=torch.float64).expand(1, 8, 5, 6)
    options = local_options(shape, "zeros", "both")
    got = output_and_gradients(local_attention, tensors, grad, **options, backend=backend)
    want = output_and_gradients(local_attention, double(tensors), grad, **options, backend="reference")
    assert_agrees(got, want, torch.float64, grad, LOCAL_NAMES)


@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@EVERYWHERE
def test_local_attention_of_an_empty_batch(backend, device, terms):
    shape = (0, 2, 4, 3, 5, 6, 3)
    tensors = local_inputs(*shape, terms=terms, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, torch.float64)
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
    # Never rounded to half precision on the way; the output, which the backward reads, is.
    worst = torch.float32 if dtype == torch.float64 else dtype
    assert_agrees([got[0], *got[4:]], [want[0], *want[4:]], worst, grad, LOCAL_NAMES[3:])


@pytest.mark.parametrize("wanted", range(5), ids=LOCAL_NAMES)
@EVERYWHERE
def test_local_attention_gradient_of_one_input_alone(backend, device, wanted):
    shape = (1, 2, 4, 3, 6, 5, 3)
    tensors = local_inputs(*shape, device=device)
    skip_unless_it_runs(backend, tensors[0])
    tensors[wanted].requires_grad_()
    grad = local_grad_output(shape, torch.float64).to(device)
    local_attention(*tensors, **local_options(shape, "mask", "both"), backend=backend).backward(grad)
    want = local_judge(shape, "mask", "both", torch.float64)[1 + wanted]
    assert_close(tensors[wanted].grad, want)
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


@EVERYWHERE
def test_inputs_are_left_as_they_were(backend, device):
    tensors = local_inputs(1, 2, 4, 4, 6, 5, 3, device=device)
    skip_unless_it_runs(backend, tensors[0])
    before = [t.clone() for t in tensors]
    output_and_gradients(
        local_attention, tensors, normal(1, 8, 6, 5), kernel_size=3, num_heads=2, scale=0.5, backend=backend
    )
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize(("backend", "device"), IMPLEMENTATIONS)
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
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
)
def test_local_attention_of_any_shape(
    backend, device, batch, num_heads, half_dim, value_dim, height, width, half_kernel, padding, terms, layout
):
    shape = (batch, num_heads, 2 * half_dim, value_dim, height, width, 2 * half_kernel + 1)
    tensors = local_inputs(*shape, terms=terms, device=device)
    tensors[:3] = [None if t is None else LAYOUTS[layout](t) for t in tensors[:3]]
    skip_unless_it_runs(backend, tensors[0])
    grad = local_grad_output(shape, torch.float64)
    options = local_options(shape, padding, terms)
    got = output_and_gradients(local_attention, tensors, grad, **options, backend=backend)
    want = output_and_gradients(local_attention, double(tensors), grad, **options, backend="reference")
    assert_agrees(got, want, torch.float64, grad, LOCAL_NAMES)


# ------------------------------------------------------------------------------------------------ block_attention

BLOCK_NAMES = ("image", "w_query", "w_key", "w_value", "rel_row", "rel_col", "value")
BLOCK_SHAPES = [  # batch, channels, heads, head_dim, value_dim, height, width, block_size
    (2, 3, 2, 4, 4, 8, 12, 4),
    (1, 3, 4, 2, 3, 7, 11, 4),
    (2, 5, 1, 4, 2, 1, 9, 3),
    (2, 3, 3, 2, 5, 9, 1, 2),
    (3, 3, 2, 4, 2, 3, 2, 7),
    (1, 4, 2, 4, 4, 1, 1, 4),
    (2, 3, 2, 4, 4, 5, 3, 1),
    (1, 1, 2, 6, 2, 13, 5, 5),
]


def block_options(shape: tuple[int, ...], terms: str) -> dict:
    return {"block_size": shape[-1], "num_heads": shape[2], "content": terms != "relative"}


def block(image, w_query, w_key, w_value, rel_row, rel_col, value, **options):
    """`block_attention` with all its tensors by position."""
    return block_attention(image, w_query, w_key, w_value, rel_row, rel_col, value=value, **options)


def block_grad_output(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    batch, _, heads, _, value_dim, height, width, _ = shape
    return normal(batch, heads * value_dim, height, width, seed=99, dtype=dtype)


@cache
def block_judge(shape, terms, values, dtype):
    """The reference's output and gradients in float64, of inputs rounded to dtype."""
    tensors = double(block_inputs(*shape, terms=terms, values=values, dtype=dtype))
    grad = block_grad_output(shape, dtype).double()
    return output_and_gradients(block, tensors, grad, **block_options(shape, terms), backend="reference")


@DTYPES
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("shape", BLOCK_SHAPES, ids=str)
@EVERYWHERE
def test_block_attention(backend, device, shape, terms, values, dtype):
    tensors = block_inputs(*shape, terms=terms, values=values, dtype=dtype, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, dtype)
    got = output_and_gradients(block, tensors, grad, **block_options(shape, terms), backend=backend)
    assert all(g is None or g.dtype == dtype for g in got)
    assert_agrees(got, block_judge(shape, terms, values, dtype), dtype, grad, BLOCK_NAMES)


@pytest.mark.parametrize("scale", [0.25, 0.0, -1.0])
@EVERYWHERE
def test_block_attention_scale(backend, device, scale):
    shape = (2, 3, 2, 4, 3, 6, 5, 4)
    tensors = block_inputs(*shape, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, torch.float64)
    options = {**block_options(shape, "both"), "scale": scale}
    got = output_and_gradients(block, tensors, grad, **options, backend=backend)
    want = output_and_gradients(block, double(tensors), grad, **options, backend="reference")
    assert_agrees(got, want, torch.float64, grad, BLOCK_NAMES)


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
    got = output_and_gradients(block, tensors, grad, **options, backend=backend)
    want = output_and_gradients(block, double(tensors), grad.double(), **options, backend="reference")
    assert_agrees(got, want, torch.float32, grad, BLOCK_NAMES)
    last = torch.channels_last if "channels_last" in layout else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=last), "the output's layout follows the picture"


@pytest.mark.parametrize("values", ["weights", "map"])
@EVERYWHERE
def test_block_attention_of_an_empty_batch(backend, device, values):
    shape = (0, 3, 2, 4, 3, 5, 6, 4)
    tensors = block_inputs(*shape, values=values, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, torch.float64)
    got = output_and_gradients(block, tensors, grad, **block_options(shape, "both"), backend=backend)
    assert got[0].shape == (0, 6, 5, 6)
    for tensor, gradient in zip(tensors, got[1:], strict=True):
        assert tensor is None or (gradient.shape == tensor.shape and not gradient.any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@EVERYWHERE
def test_block_attention_of_float32_embeddings_beside_another_picture(backend, device, dtype):
    shape = (2, 3, 2, 4, 3, 6, 7, 4)
    tensors = block_inputs(*shape, dtype=dtype, device=device)
    tensors[4:6] = block_inputs(*shape, dtype=torch.float32, device=device)[4:6]
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, dtype)
    options = block_options(shape, "both")
    got = output_and_gradients(block, tensors, grad, **options, backend=backend)
    want = output_and_gradients(block, double(tensors), grad.double(), **options, backend="reference")
    assert [t.dtype for t in got if t is not None] == [dtype] * 5 + [torch.float32] * 2
    worst = torch.float32 if dtype == torch.float64 else dtype
    assert_agrees(got, want, worst, grad, BLOCK_NAMES)


@pytest.mark.parametrize(
    ("wanted", "values"),
    [(n, values) for values, missing in (("weights", 6), ("map", 3)) for n in range(7) if n != missing],
)
@EVERYWHERE
def test_block_attention_gradient_of_one_input_alone(backend, device, wanted, values):
    """A picture wants no gradient in training: the weights' must not depend on that."""
    shape = (1, 3, 2, 4, 3, 6, 5, 4)
    tensors = block_inputs(*shape, values=values, device=device)
    skip_unless_it_runs(backend, tensors[0])
    tensors[wanted].requires_grad_()
    grad = block_grad_output(shape, torch.float64).to(device)
    block(*tensors, **block_options(shape, "both"), backend=backend).backward(grad)
    assert_close(tensors[wanted].grad, block_judge(shape, "both", values, torch.float64)[1 + wanted])
    assert all(t is None or t.grad is None for n, t in enumerate(tensors) if n != wanted)


@pytest.mark.parametrize(("backend", "device"), IMPLEMENTATIONS)
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
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
)
def test_block_attention_of_any_shape(
    backend, device, batch, channels, num_heads, half_dim, value_dim, height, width, block_size, terms, values
):
    shape = (batch, channels, num_heads, 2 * half_dim, value_dim, height, width, block_size)
    tensors = block_inputs(*shape, terms=terms, values=values, device=device)
    skip_unless_it_runs(backend, tensors[0])
    grad = block_grad_output(shape, torch.float64)
    options = block_options(shape, terms)
    got = output_and_gradients(block, tensors, grad, **options, backend=backend)
    want = output_and_gradients(block, double(tensors), grad, **options, backend="reference")
    assert_agrees(got, want, torch.float64, grad, BLOCK_NAMES)


# --------------------------------------------------------------------------------------- strips of the eager path


@pytest.fixture
def strips_seen(monkeypatch):
    """Records every strip that a run of `eager` or `eager_block` goes through."""
    seen = []

    def recording(function):
        def strips(*arguments):
            for strip in function(*arguments):
                seen.append(strip)
                yield strip

        return strips

    monkeypatch.setattr(eager.Tiling, "strips", recording(eager.Tiling.strips))
    monkeypatch.setattr(eager_block, "strips", recording(eager_block.strips))
    return seen


# Logits of one row of tiles: 2 heads * 2 tiles * 16 queries * 36 keys = 2304; three rows of tiles.
@pytest.mark.parametrize(
    ("budget", "strips"),
    [(1, 5 * 3), (2 * 2304, 5 * 2), (3 * 2304, 5), (2 * 3 * 2304, 3), (2**20, 1)],
    ids=["a row of tiles", "two rows", "an image", "two images", "all"],
)
@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_local_attention_in_strips(monkeypatch, strips_seen, padding, budget, strips):
    monkeypatch.setattr(eager, "STRIP_LOGITS", {"cpu": budget})
    shape = (5, 2, 4, 3, 11, 7, 3)
    grad = local_grad_output(shape, torch.float64)
    options = local_options(shape, padding, "both")
    got = output_and_gradients(local_attention, local_inputs(*shape), grad, **options, backend="eager")
    assert len(strips_seen) == 2 * strips, "once forward, once backward"
    assert_agrees(got, local_judge(shape, padding, "both", torch.float64), torch.float64, grad, LOCAL_NAMES)


# Pixels of one row of blocks: 4 * 7 = 28; three rows of blocks, the last one partial, 77 pixels in a picture.
@pytest.mark.parametrize(
    ("budget", "strips"),
    [(1, 5 * 3), (2 * 28, 5 * 2), (3 * 28, 5), (2 * 3 * 28, 3), (2**20, 1)],
    ids=["a row of blocks", "two rows", "an image", "two images", "all"],
)
@pytest.mark.parametrize("values", ["weights", "map"])
def test_block_attention_in_strips(monkeypatch, strips_seen, values, budget, strips):
    monkeypatch.setattr(eager_block, "STRIP_PIXELS", {"cpu": budget})
    shape = (5, 3, 2, 4, 3, 11, 7, 4)
    tensors = block_inputs(*shape, values=values)
    grad = block_grad_output(shape, torch.float64)
    got = output_and_gradients(block, tensors, grad, **block_options(shape, "both"), backend="eager")
    assert len(strips_seen) == 2 * strips, "once forward, once backward"
    assert_agrees(got, block_judge(shape, "both", values, torch.float64), torch.float64, grad, BLOCK_NAMES)
