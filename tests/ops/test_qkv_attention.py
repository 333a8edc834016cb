"""Attention on one map of queries, keys and values, by the kernels and in plain torch, compared with the reference."""

import importlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fused
from comparison import DTYPES
from helpers import (
    DEVICES,
    NEEDS_KERNELS,
    TOLERANCE,
    WITHOUT_KERNELS,
    assert_close,
    double,
    normal,
    output_and_gradients,
)
from operators import of_given, qkv_attention, qkv_attention_inference
from sasa.ops.arguments import Epilogue, QkvBackward, QkvForward, QkvInference, QkvInputs, QkvOptions

plain = importlib.import_module("sasa.ops.qkv_attention")
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
NAMES = ("output", "qkv", "rel_row", "rel_col")
SHAPES = [  # batch, heads, head_dim, height, width, kernel_size
    (2, 2, 4, 7, 5, 3),
    (1, 4, 6, 13, 11, 7),
    (2, 1, 2, 1, 9, 5),
    (2, 3, 2, 9, 1, 3),
    (3, 2, 4, 3, 2, 7),
    (1, 1, 4, 1, 1, 5),
    (1, 2, 8, 6, 19, 9),
    (1, 2, 4, 4, 21, 11),
    (2, 2, 8, 5, 9, 1),
    (2, 2, 8, 7, 19, 3),
    (1, 2, 14, 5, 29, 13),
]
# Terms, padding and memory format of the map; each shape is tested with each of them.
FORMS = [
    ("both", "zeros", torch.channels_last),
    ("both", "mask", torch.contiguous_format),
    ("content", "mask", torch.channels_last),
    ("relative", "zeros", torch.contiguous_format),
]
EVERY = pytest.mark.parametrize(("terms", "padding", "layout"), FORMS, ids=["both", "mask", "content", "relative"])


def make(shape, terms, dtype, layout=torch.contiguous_format, device="cpu"):
    """qkv, rel_row, rel_col; without keys for terms="relative"."""
    batch, heads, head_dim, height, width, kernel = shape
    parts = 2 if terms == "relative" else 3
    qkv = normal(batch, parts * heads * head_dim, height, width, dtype=dtype, device=device)
    rel = [normal(heads, kernel, head_dim // 2, seed=seed, dtype=dtype, device=device) for seed in (1, 2)]
    return [qkv.contiguous(memory_format=layout), *([None, None] if terms == "content" else rel)]


def options_of(shape, terms, padding, scale=0.7):
    content = terms != "relative"
    return {"kernel_size": shape[-1], "num_heads": shape[1], "padding": padding, "scale": scale, "content": content}


def grad_of(shape, dtype):
    batch, heads, head_dim, height, width, _ = shape
    return normal(batch, heads * head_dim, height, width, seed=9, dtype=dtype)


def kernels(tensors, grad, options):
    """Output and gradients of the function, by the C++ kernels if they are in use."""
    return output_and_gradients(qkv_attention, tensors, grad, **options)


def in_plain_torch(tensors, grad, options):
    """The same by the implementation in plain torch."""
    inputs, options = QkvInputs(*tensors), QkvOptions(**options)
    output, logsumexp = plain._forward(QkvForward(inputs, options))
    grads = plain._backward(QkvBackward(grad, inputs, logsumexp, options))
    return [output, *(None if t is None else g for t, g in zip(tensors, grads, strict=True))]


BOTH = pytest.mark.parametrize("run", [kernels, pytest.param(in_plain_torch, marks=WITHOUT_KERNELS)])


@DTYPES
@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@BOTH
def test_it_is_local_attention_of_the_thirds(run, shape, terms, padding, layout, dtype):
    tensors = make(shape, terms, dtype, layout)
    options, grad = options_of(shape, terms, padding), grad_of(shape, dtype)
    got = run(tensors, grad, options)
    want = output_and_gradients(fused.qkv_attention, double(tensors), grad.double(), **options)
    for name, one, expected in zip(NAMES, got, want, strict=True):
        assert (one is None) == (expected is None), name
        if one is not None:
            assert one.dtype == dtype
            assert_close(one, expected, TOLERANCE[dtype], otherwise=grad.double().norm().item(), name=name)
    assert got[0].is_contiguous(memory_format=layout) or 1 in got[0].shape
    assert got[1].stride() == tensors[0].stride()


@BOTH
def test_a_map_within_a_larger_one(run):
    shape = SHAPES[0]
    tensors, options = make(shape, "both", torch.float32), options_of(shape, "both", "zeros")
    larger = torch.full((3, 30, 9, 8), float("nan"))
    larger[:2, 3:27, 1:8, 2:7] = tensors[0]
    grad = grad_of(shape, torch.float32)
    want = run(tensors, grad, options)
    got = run([larger[:2, 3:27, 1:8, 2:7], *tensors[1:]], grad.mT.contiguous().mT, options)
    for one, expected in zip(got, want, strict=True):
        assert_close(one, expected, 1e-6)


@BOTH
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_an_empty_batch(run, terms):
    shape = (0, *SHAPES[0][1:])
    got = run(make(shape, terms, torch.float32), grad_of(shape, torch.float32), options_of(shape, terms, "mask"))
    assert got[0].shape == (0, 8, 7, 5)
    assert all(grad is None or not grad.any() for grad in got[1:])


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_a_backend_by_name(backend):
    shape = SHAPES[0]
    tensors, options = make(shape, "both", torch.float64), options_of(shape, "both", "mask")
    grad = grad_of(shape, torch.float64)
    want = kernels(tensors, grad, options)
    got = output_and_gradients(qkv_attention, tensors, grad, **options, backend=backend)
    for one, expected in zip(got, want, strict=True):
        assert_close(one, expected)


def test_autocast_rounds_the_map_alone():
    tensors, options = make(SHAPES[0], "both", torch.float32), options_of(SHAPES[0], "both", "zeros")
    with torch.autocast("cpu", torch.bfloat16):
        got = qkv_attention(*tensors, **options)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, qkv_attention(tensors[0].bfloat16(), *tensors[1:], **options))


# ---------------------------------------------------------------------------------------------------- for inference


def infer_with_kernels(tensors, gain, shift, options):
    return qkv_attention_inference(*tensors, gain, shift, **options)


def infer_in_plain_torch(tensors, gain, shift, options):
    epilogue = Epilogue(gain, shift, options["relu"], options["pool"])
    rest = QkvOptions(*(options[name] for name in QkvOptions._fields))
    return plain._inference(QkvInference(QkvInputs(*tensors), epilogue, rest))


INFER = pytest.mark.parametrize("run", [infer_with_kernels, pytest.param(infer_in_plain_torch, marks=WITHOUT_KERNELS)])


@DTYPES
@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@INFER
def test_inference_is_attention_pool_affine_and_relu(run, shape, terms, padding, layout, dtype):
    tensors = make(shape, terms, dtype, layout)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    gain, shift = (normal(shape[1] * shape[2], seed=seed, dtype=wide) for seed in (5, 6))
    for pool in (1, 2):
        options = {**options_of(shape, terms, padding), "relu": True, "pool": pool}
        got = run(tensors, gain, shift, options)
        want = fused.qkv_attention_inference(*double(tensors), gain.double(), shift.double(), **options)
        assert got.dtype == dtype
        assert_close(got, want, TOLERANCE[dtype], otherwise=shift.double().norm().item(), name=f"pool {pool}")
        assert got.is_contiguous(memory_format=layout) or 1 in got.shape


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("gained", "shifted"), [(False, False), (True, False), (False, True)])
@INFER
def test_each_part_of_inference_may_be_left_out(run, gained, shifted, relu):
    shape = SHAPES[0]
    tensors, options = make(shape, "both", torch.float64), options_of(shape, "both", "zeros")
    gain, shift = normal(8, seed=5) if gained else None, normal(8, seed=6) if shifted else None
    for pool in (1, 2):
        got = run(tensors, gain, shift, {**options, "relu": relu, "pool": pool})
        want = fused.qkv_attention_inference(*tensors, gain, shift, relu=relu, pool=pool, **options)
        assert_close(got, want)
        assert (got < 0).any() != relu


@INFER
@pytest.mark.parametrize("pool", [1, 2])
def test_inference_on_an_empty_batch(run, pool):
    shape = (0, *SHAPES[0][1:])
    options = {**options_of(shape, "both", "zeros"), "relu": True, "pool": pool}
    got = run(make(shape, "both", torch.float32), None, None, options)
    assert got.shape == ((0, 8, 7, 5) if pool == 1 else (0, 8, 4, 3))


# ----------------------------------------------------------------------------------------------------------- opcheck


@OPCHECK
@pytest.mark.parametrize(
    ("terms", "padding", "dtype", "layout"),
    [
        ("both", "zeros", torch.float32, torch.contiguous_format),
        ("content", "mask", torch.float32, torch.channels_last),
        ("relative", "zeros", torch.bfloat16, torch.channels_last),
    ],
    ids=str,
)
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device, terms, padding, dtype, layout):
    shape = (2, 2, 4, 5, 4, 3)
    tensors, content = make(shape, terms, dtype, layout, device), terms != "relative"
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    more = (3, 2, content, padding, 0.5)
    torch.library.opcheck(torch.ops.sasa.qkv_attention.default, (*leaves, *more))
    output, logsumexp = torch.ops.sasa.qkv_attention(*tensors, *more)
    backward = torch.ops.sasa.qkv_attention_backward.default
    arguments = (torch.ones_like(output), *tensors, logsumexp, *more)
    torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))
    for pool in (1, 2):
        arguments = (*tensors, torch.ones(8, device=device), None, True, pool, *more)
        torch.library.opcheck(torch.ops.sasa.qkv_attention_inference.default, arguments)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("device", DEVICES)
def test_the_fake_results_have_the_real_strides(device, layout):
    tensors, more = make(SHAPES[0], "both", torch.float32, layout, device), (3, 2, True, "zeros", 0.5)

    def run(*tensors):
        output, logsumexp = torch.ops.sasa.qkv_attention(*tensors, *more)
        grads = torch.ops.sasa.qkv_attention_backward(torch.ones_like(output), *tensors, logsumexp, *more)
        inferred = torch.ops.sasa.qkv_attention_inference(*tensors, None, None, True, 2, *more)
        return [(t.shape, t.dtype, t.device, t.stride()) for t in (output, logsumexp, *grads, inferred)]

    with FakeTensorMode() as mode:
        fake = run(*map(mode.from_tensor, tensors))
    assert fake == run(*tensors)


def test_gradcheck():
    shape = (1, 2, 2, 3, 2, 3)
    tensors, options = make(shape, "both", torch.float64), options_of(shape, "both", "mask")
    assert torch.autograd.gradcheck(*of_given(qkv_attention, tensors, **options))


@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_gradgradcheck(terms):
    shape = (1, 1, 2, 2, 2, 3)
    tensors, options = make(shape, terms, torch.float64), options_of(shape, terms, "mask")
    assert torch.autograd.gradgradcheck(*of_given(qkv_attention, tensors, **options))


def test_the_form_for_inference_has_no_gradient():
    tensors, options = make(SHAPES[0], "both", torch.float32), options_of(SHAPES[0], "both", "zeros")
    leaves = [t.requires_grad_() for t in tensors]
    y = qkv_attention_inference(*leaves, None, None, relu=False, pool=1, **options)
    with pytest.raises(NotImplementedError, match="qkv_attention_inference has no gradient"):
        y.sum().backward()


@NEEDS_KERNELS
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kernel_size": 4}, r"kernel_size \(4\) must be positive and odd"),
        ({"num_heads": 3}, r"channels \(8 and 8\) must be divisible by num_heads \(3\)"),
        ({"padding": "same"}, 'padding must be "zeros" or "mask"'),
        ({"kernel_size": 5}, "rel_row does not fit the other arguments in device or shape"),
        ({"content": False}, "rel_row does not fit"),
    ],
)
def test_the_kernels_check_what_they_read(changes, sentence):
    """Layers check arguments before the call; a wrong call must still not read beyond a map."""
    tensors, options = make(SHAPES[0], "both", torch.float32), options_of(SHAPES[0], "both", "zeros")
    with pytest.raises(RuntimeError, match=sentence):
        qkv_attention(*tensors, **{**options, **changes})
