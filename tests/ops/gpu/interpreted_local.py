"""The Triton kernels of local attention against the float64 reference, in Triton's interpreter on CPU tensors.

`test_interpreter.py` runs this file in a process of its own: with TRITON_INTERPRET=1 before Triton is imported, and so
that no other test sees a back-end "triton" that can run. Uninitialised memory is NaN.
"""

import pytest
import torch
import triton
import triton.language as tl

from comparison import assert_agrees_with_reference, local_grad_output, local_options, sliced
from helpers import assert_close, double, local_inputs, normal, output_and_gradients
from sasa.ops import local_attention, reference
from sasa.ops.arguments import (
    Epilogue,
    LocalForward,
    LocalInputs,
    LocalOptions,
    QkvBackward,
    QkvForward,
    QkvInference,
    QkvInputs,
    QkvOptions,
)
from sasa.ops.backends import triton as backend
from sasa.ops.gpu import local_launch, tuning
from sasa.ops.gpu.local_tile import addresses
from sasa.ops.qkv_attention import _cuda, _cuda_backward, _cuda_inference, _inference

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.fixture(autouse=True)
def _allocations_are_nan():
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()


def last(t):
    return t.contiguous(memory_format=torch.channels_last)


def assert_agrees(tensors, grad, options):
    return assert_agrees_with_reference(local_attention, tensors, grad, "triton", **options)


SHAPES = [  # batch, heads, head_dim, value_dim, height, width, kernel_size; the half precision to try as well
    ((1, 2, 8, 8, 5, 9, 7), BF16),
    ((2, 3, 8, 8, 5, 5, 3), F16),
    ((1, 2, 8, 8, 9, 2, 7), F16),
    ((1, 1, 16, 16, 9, 5, 7), BF16),
    ((1, 2, 32, 32, 5, 3, 7), BF16),
    ((1, 1, 64, 64, 5, 7, 7), F16),
    ((1, 1, 128, 128, 3, 4, 5), BF16),
    ((1, 2, 6, 10, 7, 5, 5), BF16),
    ((2, 1, 40, 24, 3, 5, 3), F16),
    ((1, 3, 10, 6, 1, 9, 7), F16),
    ((1, 2, 4, 3, 9, 1, 5), BF16),
    ((3, 1, 8, 8, 3, 2, 7), F16),
    ((1, 2, 2, 1, 1, 1, 5), BF16),
    ((2, 2, 4, 4, 5, 7, 1), F16),
    ((1, 1, 8, 4, 5, 17, 9), BF16),
    ((1, 1, 8, 8, 7, 10, 11), F16),
]


CASES = [(shape, F32) for shape, _ in SHAPES] + SHAPES[2:8]


@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_shapes(shape, dtype):
    tensors = local_inputs(*shape, dtype=dtype)
    assert_agrees(tensors, local_grad_output(shape, dtype), local_options(shape))


@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize(("kernel_size", "scale", "dtype"), [(3, 0.25, F32), (7, -1.0, BF16)])
def test_options(kernel_size, scale, dtype, terms, padding):
    shape = (1, 2, 8, 6, 3, 6, kernel_size)
    tensors = local_inputs(*shape, terms=terms, dtype=dtype)
    assert_agrees(tensors, local_grad_output(shape, dtype), local_options(shape, padding, terms, scale))


EVERY = (0, 1, 2)


@pytest.mark.parametrize(
    ("layout", "which"),
    [
        (last, EVERY), (sliced, EVERY), (lambda t: last(sliced(t)), EVERY), (lambda t: t.permute(3, 1, 2, 0), EVERY),
        (last, (0,)), (last, (1,)), (last, (2,)),
    ],
)  # fmt: skip
def test_layouts(layout, which):
    shape = (3, 1, 8, 8, 4, 3, 3)
    tensors = local_inputs(*shape, dtype=F32)
    for index in which:
        tensors[index] = layout(tensors[index])
    grad = layout(local_grad_output(shape, F32))
    got = assert_agrees(tensors, grad, local_options(shape))
    last_of_output = torch.channels_last if tensors[0].stride(1) == 1 else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=last_of_output), "the output's layout follows query"


@pytest.mark.parametrize("programs", [1, 4])
def test_programs_of_several_images(monkeypatch, programs):
    """Each program takes all five images, or two of them and the last one."""
    monkeypatch.setattr(local_launch, "PROGRAMS", programs)
    shape = (5, 2, 8, 8, 3, 5, 3)
    assert_agrees(local_inputs(*shape, dtype=F32), local_grad_output(shape, F32), local_options(shape, "mask"))


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_float32_embeddings_beside_half_precision_are_not_rounded(dtype):
    shape = (1, 2, 8, 8, 6, 5, 5)
    tensors = local_inputs(*shape, dtype=dtype)
    tensors[3:] = [8 * t for t in local_inputs(*shape, dtype=F32)[3:]]
    got = assert_agrees(tensors, local_grad_output(shape, dtype), local_options(shape))
    assert [t.dtype for t in got] == [dtype] * 4 + [F32] * 2
    options = {"kernel_size": 5, "num_heads": 2, "padding": "zeros", "scale": 1.0}
    _, logsumexp = local_launch.forward(LocalForward(LocalInputs(*tensors), LocalOptions(**options)))
    assert_close(logsumexp, reference.local_attention(LocalInputs(*double(tensors)), LocalOptions(**options))[1], 2e-5)


def test_a_stride_0_gradient_and_expanded_embeddings():
    shape = (1, 2, 4, 4, 5, 6, 3)
    tensors = local_inputs(*shape, dtype=F32)
    tensors[3] = tensors[3][:1].expand(2, -1, -1)
    tensors[4] = tensors[4].mT.contiguous().mT
    assert_agrees(tensors, torch.ones((), dtype=F32).expand(1, 8, 5, 6), local_options(shape))


def test_large_logits():
    shape = (1, 2, 4, 4, 6, 5, 3)
    tensors = [30 * t for t in local_inputs(*shape, dtype=F32)]
    got = local_attention(*tensors, **local_options(shape, "mask"), backend="triton")
    assert_close(got, local_attention(*double(tensors), **local_options(shape, "mask"), backend="reference"), 1e-3)


def test_an_empty_batch():
    shape = (0, 2, 4, 3, 5, 6, 3)
    got = output_and_gradients(
        local_attention,
        local_inputs(*shape, dtype=F32),
        local_grad_output(shape, F32),
        **local_options(shape),
        backend="triton",
    )
    assert got[0].shape == (0, 6, 5, 6)
    assert not any(g.any() for g in got)


def test_two_runs_agree_to_the_last_bit():
    shape = (3, 2, 8, 8, 3, 6, 7)
    runs = [
        output_and_gradients(
            local_attention, local_inputs(*shape, dtype=BF16), local_grad_output(shape, BF16), **local_options(shape),
            backend="triton",
        )
        for _ in range(2)
    ]  # fmt: skip
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_wide_offsets(monkeypatch):
    """64-bit offsets within a image; here only that they compute the same."""
    monkeypatch.setattr(local_launch, "_is_wide", lambda m: True)
    shape = (1, 2, 8, 8, 5, 6, 3)
    assert_agrees(local_inputs(*shape, dtype=F32), local_grad_output(shape, F32), local_options(shape))


@triton.jit
def addresses_of_one_pixel(out, head, stride_c, CHANNELS: tl.constexpr, WIDE: tl.constexpr):
    zero = tl.zeros((1, 1), tl.int32)
    image = tl.full((), 0, tl.int64)
    offsets = addresses(zero, zero, image, tl.full((1,), head, tl.int32), 0, stride_c, 0, 0, CHANNELS, CHANNELS, WIDE)
    tl.store(out + tl.arange(0, CHANNELS), tl.reshape(offsets, (CHANNELS,)))


def test_addresses_beyond_32_bits():
    """Products of offsets must be computed in 64 bits, already for the channels of one head."""
    out = torch.zeros(16, dtype=torch.int64)
    addresses_of_one_pixel[(1,)](out, 3, 2**28, 16, True)
    assert out.tolist() == [(3 * 16 + channel) * 2**28 for channel in range(16)]


@pytest.mark.parametrize(("keys", "across"), [(16, 1), (64, 4)])
def test_any_tiling_gives_the_same_result(monkeypatch, keys, across):
    """Steps, tiles and groups are only a matter of speed."""

    def cut(kernel, head_dim, kernel_size, itemsize, architecture, apart):
        width, columns, rows, steps = tuning._cut(4, kernel_size, keys)
        return tuning.TileSizes((4, width), columns, rows, steps, 4 // across, across, 4, 1)

    monkeypatch.setattr(local_launch, "tiling", cut)
    shape = (1, 2, 8, 8, 5, 6, 5)
    assert_agrees(local_inputs(*shape, dtype=F32), local_grad_output(shape, F32), local_options(shape, "mask"))


@pytest.mark.parametrize(
    ("content", "memory_format"),
    [(True, torch.contiguous_format), (True, torch.channels_last), (False, torch.channels_last)],
)
def test_one_map_of_queries_keys_and_values(memory_format, content):
    """The functions that the dispatcher calls for CUDA tensors: one projected map in, one map of its gradients out."""
    shape = (1, 2, 8, 8, 6, 5, 3)
    qkv = normal(1, 48 if content else 32, 6, 5, dtype=F32).contiguous(memory_format=memory_format)
    rel = local_inputs(*shape, dtype=F32)[3:]
    grad = local_grad_output(shape, F32)
    inputs, options = QkvInputs(qkv, *rel), QkvOptions(3, 2, content, "mask", 0.5)
    output, logsumexp = _cuda(QkvForward(inputs, options))
    grads = _cuda_backward(QkvBackward(grad, inputs, logsumexp, options))

    def attend(qkv, rel_row, rel_col):
        query, *key, value = qkv.chunk(3 if content else 2, dim=1)
        options = local_options(shape, "mask", "both" if content else "relative", 0.5)
        return local_attention(query, *(key or [None]), value, rel_row, rel_col, **options, backend="reference")

    want = output_and_gradients(attend, double([qkv, *rel]), grad.double())
    for one, expected in zip((output, *grads), want, strict=True):
        assert_close(one, expected, 1e-5)
    assert grads[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("pool", [1, 2])
def test_inference(pool):
    qkv, rel = normal(1, 48, 5, 7, dtype=F32), local_inputs(1, 2, 8, 8, 5, 7, 3, dtype=F32)[3:]
    gain, shift = normal(16, seed=5, dtype=F32), normal(16, seed=6, dtype=F32)
    options = QkvOptions(3, 2, True, "zeros", 1.0)
    call = QkvInference(QkvInputs(qkv, *rel), Epilogue(gain, shift, True, pool), options)
    assert_close(_cuda_inference(call), _inference(call), 1e-5)


def test_more_channels_than_the_kernels_hold():
    query = normal(1, 130, 2, 2, dtype=F32)
    with pytest.raises(ValueError, match="a head has 130 channels, and these kernels hold at most 128"):
        local_attention(query, query, query, kernel_size=3, num_heads=1, backend="triton")
    call = LocalForward(LocalInputs(query, query, query, None, None), LocalOptions(3, 1, "zeros", 1.0))
    assert backend.for_call(call).functions("local_attention").forward(call)[0].isfinite().all(), "plain torch"


def test_float64_is_for_plain_torch():
    query = normal(1, 4, 2, 2)
    with pytest.raises(ValueError, match=r"query is torch\.float64, and these kernels know float32"):
        local_attention(query, query, query, kernel_size=3, num_heads=1, backend="triton")
