"""The Triton kernels of block attention against the float64 reference, in Triton's interpreter on CPU tensors.

`test_interpreter.py` runs this file in a process of its own, with TRITON_INTERPRET=1 before Triton is imported.
Uninitialised memory is NaN.
"""

import pytest
import torch

from comparison import BLOCK_NAMES, block, sliced
from helpers import TOLERANCE, assert_close, block_inputs, double, normal, output_and_gradients
from sasa.errors import ArgumentError
from sasa.ops import block_attention
from sasa.ops.gpu import block_launch
from sasa.ops.gpu.available import is_wide

NAMES = ("output", *BLOCK_NAMES)
HALVES = [torch.float16, torch.bfloat16]

# batch, channels, heads, head_dim, value_dim, height, width, block_size
STEM = (1, 3, 2, 16, 16, 8, 20, 4)
SHAPES = [
    STEM,
    (2, 3, 2, 4, 3, 7, 11, 4),
    (2, 5, 1, 4, 2, 1, 9, 3),
    (1, 3, 3, 2, 5, 5, 1, 2),
    (2, 3, 2, 4, 2, 3, 2, 7),
    (1, 4, 2, 4, 4, 1, 1, 4),
    (1, 3, 2, 4, 4, 3, 5, 1),
    (1, 1, 2, 6, 18, 13, 5, 5),
    (1, 2, 2, 2, 2, 7, 8, 6),
]


@pytest.fixture(autouse=True)
def _allocations_are_nan():
    """Deterministic algorithms make torch.empty return NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()


@pytest.fixture
def few_programs(monkeypatch):
    """Each program goes through several groups, as it does with images of real size."""
    monkeypatch.setattr(block_launch, "PROGRAMS", 2)


def compare(shape, dtype, tensors, grad=None, terms="both", scale=1.0):
    """Compare output and gradients of all given inputs with the reference, within the tolerance of their dtype."""
    batch, _, heads, _, value_dim, height, width, block_size = shape
    if grad is None:
        grad = normal(batch, heads * value_dim, height, width, seed=99, dtype=dtype)
    options = {"block_size": block_size, "num_heads": heads, "content": terms != "relative", "scale": scale}
    got = output_and_gradients(block, tensors, grad, **options, backend="triton")
    want = output_and_gradients(block, double(tensors), grad.double(), **options, backend="reference")
    for name, one, expected, like in zip(NAMES, got, want, [tensors[0], *tensors], strict=True):
        assert (one is None) == (expected is None), name
        if one is not None:
            assert one.dtype == like.dtype, name
            assert_close(one, expected, TOLERANCE[dtype], otherwise=grad.double().norm().item(), name=name)
    return got


@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(shape, values, few_programs):
    compare(shape, torch.float32, block_inputs(*shape, values=values, dtype=torch.float32))


@pytest.mark.parametrize("terms", ["content", "relative"])
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_terms(shape, terms):
    tensors = block_inputs(*shape, terms=terms, dtype=torch.float32)
    compare(shape, torch.float32, tensors, terms=terms)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("shape", "terms", "values"),
    [
        (STEM, "both", "weights"),
        (SHAPES[1], "both", "map"),
        (SHAPES[1], "content", "weights"),
        (SHAPES[2], "relative", "weights"),
        (SHAPES[4], "both", "weights"),
    ],
    ids=str,
)
def test_half_precision(shape, terms, values, dtype, few_programs):
    tensors = block_inputs(*shape, terms=terms, values=values, dtype=dtype)
    compare(shape, dtype, tensors, terms=terms)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_float32_embeddings_beside_half_precision(dtype):
    tensors = block_inputs(*SHAPES[1], dtype=dtype)
    tensors[4:6] = block_inputs(*SHAPES[1], dtype=torch.float32)[4:6]
    compare(SHAPES[1], dtype, tensors)


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "sliced": sliced,
    "expanded_width": lambda t: t[..., :1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", ["weights", "map"])
def test_layouts(values, layout):
    shape = (2, 3, 2, 4, 4, 6, 7, 4)
    tensors = block_inputs(*shape, values=values, dtype=torch.float32)
    tensors[0] = LAYOUTS[layout](tensors[0])
    tensors[1] = tensors[1].T.contiguous().T
    if values == "map":
        tensors[6] = LAYOUTS[layout](tensors[6])
    else:  # "pointwise": one matrix, expanded over the positions
        tensors[3] = tensors[3][:1].expand(16, -1, -1)
    grad = LAYOUTS[layout](normal(2, 8, 6, 7, seed=99, dtype=torch.float32))
    output = compare(shape, torch.float32, tensors, grad)[0]
    last = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert output.is_contiguous(memory_format=last), "the output's layout follows the image"


def test_a_gradient_with_strides_beyond_32_bits_is_copied(monkeypatch):
    """Its layout is the user's; that of the output, which the copy has, is not wide."""
    tensors = block_inputs(*SHAPES[1], dtype=torch.float32)
    grad = normal(2, 6, 7, 11, seed=99, dtype=torch.float32)
    seen = []
    monkeypatch.setattr(block_launch, "is_wide", lambda m: m.shape == grad.shape and (seen.append(m) or True))
    compare(SHAPES[1], torch.float32, tensors, grad)
    assert len(seen) == 1


def test_maps_with_wide_offsets():
    def strided(*strides):
        return torch.empty_strided((2, 6, 7, 11), strides, device="meta")

    assert not is_wide(strided(2**40, 77, 11, 1)), "images may be far apart in memory"
    assert is_wide(strided(1, 2**25, 11, 1))
    assert is_wide(strided(1, 1, 2**28, 1))
    assert is_wide(strided(1, 1, 1, 2**25))


@pytest.mark.parametrize("scale", [0.25, 0.0, -1.0])
def test_scale(scale):
    tensors = block_inputs(*SHAPES[1], dtype=torch.float32)
    compare(SHAPES[1], torch.float32, tensors, scale=scale)


@pytest.mark.parametrize("values", ["weights", "map"])
def test_an_empty_batch(values):
    shape = (0, 3, 2, 4, 3, 5, 6, 4)
    compare(shape, torch.float32, block_inputs(*shape, values=values, dtype=torch.float32))


def test_large_logits():
    """Logits of several hundred: a softmax that does not subtract the maximum overflows."""
    tensors = [None if t is None else 20 * t for t in block_inputs(*STEM, dtype=torch.float32)]
    options = {"block_size": 4, "num_heads": 2}
    got = block(*tensors, **options, backend="triton")
    assert_close(got, block(*double(tensors), **options, backend="reference"), 1e-3)


def test_the_gradient_of_one_weight_alone():
    """The image requires no gradient, as in training, so its gradient is not computed."""
    tensors = block_inputs(*SHAPES[1], dtype=torch.float32)
    grad = normal(2, 6, 7, 11, seed=99, dtype=torch.float32)
    options = {"block_size": 4, "num_heads": 2}
    tensors[1].requires_grad_()
    block(*tensors, **options, backend="triton").backward(grad)
    want = output_and_gradients(block, double(tensors), grad.double(), **options, backend="reference")
    assert_close(tensors[1].grad, want[2], TOLERANCE[torch.float32])
    assert tensors[0].grad is None


def test_the_same_bits_every_time(few_programs):
    tensors = block_inputs(*STEM, dtype=torch.bfloat16)
    grad = normal(1, 32, 8, 20, seed=99, dtype=torch.bfloat16)
    options = {"block_size": 4, "num_heads": 2, "backend": "triton"}
    first, second = (output_and_gradients(block, tensors, grad, **options) for _ in range(2))
    assert all(a is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_says_why_not():
    image, w = torch.randn(1, 3, 8, 8), torch.randn(8, 3)
    w_value = torch.randn(64, 8, 3)
    with pytest.raises(ArgumentError, match=r"block_size \(8\) may be at most 7"):
        block_attention(image, w, w, w_value, block_size=8, num_heads=2, backend="triton")
    with pytest.raises(ArgumentError, match="float64"):
        block_attention(*(t.double() for t in (image, w, w, w_value)), block_size=8, num_heads=2, backend="triton")


def test_no_second_derivative():
    image, w = torch.randn(1, 3, 4, 4, requires_grad=True), torch.randn(8, 3)
    y = block_attention(image, w, w, w.expand(16, 8, 3), block_size=4, num_heads=2, backend="triton")
    (grad,) = torch.autograd.grad(y.square().sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


def test_tf32_is_the_users_choice():
    """As torch's own matrix product, in either of torch's two settings; half precision is exact anyway."""
    image = torch.empty(1)
    assert block_launch.precisions(image) == {"HALF": False, "PRECISION": "ieee"}
    torch.set_float32_matmul_precision("high")
    try:
        assert block_launch.precisions(image) == {"HALF": False, "PRECISION": "tf32"}
        assert block_launch.precisions(image.half()) == {"HALF": True, "PRECISION": "ieee"}
    finally:
        torch.set_float32_matmul_precision("highest")
