"""Block attention fused with pooling, in C++ and in plain torch, compared with the reference."""

import importlib

import pytest
import torch
import torch.nn.functional as F

import fused
from comparison import BLOCK_NAMES, BLOCK_SHAPES, DTYPES
from helpers import NEEDS_KERNELS, TOLERANCE, WITHOUT_KERNELS, assert_close, block_inputs, double, normal
from operators import block_attention_pooled, of_given
from sasa.ops.arguments import BlockInputs, BlockOptions, PooledBackward, PooledForward

plain = importlib.import_module("sasa.ops.block_pooled")
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
SHAPES = [
    *BLOCK_SHAPES,
    (1, 3, 2, 2, 8, 37, 45, 4),  # more than one strip, more than one tile
    (1, 4, 3, 4, 1, 4, 40, 2),
    (1, 2, 1, 2, 1, 5, 18, 16),  # the largest block whose positions fit into a byte
]
FORMS = [  # terms, values, memory format of the image
    ("both", "weights", torch.contiguous_format),
    ("both", "map", torch.channels_last),
    ("content", "weights", torch.channels_last),
    ("relative", "map", torch.contiguous_format),
]
EVERY = pytest.mark.parametrize(("terms", "values", "layout"), FORMS, ids=["both", "map", "content", "relative"])


def make(shape, terms="both", values="weights", dtype=torch.float64, layout=torch.contiguous_format):
    """The seven tensors of block attention, and a sign for each channel: some negative, one zero."""
    tensors = block_inputs(*shape, terms=terms, values=values, dtype=dtype)
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    sign = normal(shape[2] * shape[4], seed=77, dtype=wide)
    sign[0] = 0
    return tensors, sign


def options_of(shape, scale=0.7):
    return {"block_size": shape[-1], "num_heads": shape[2], "scale": scale}


def grads_of(extreme, sums):
    """Gradients of the extremes and of the sums."""
    return normal(*extreme.shape, seed=98, dtype=extreme.dtype), normal(*sums.shape, seed=99)


def kernels(tensors, sign, options):
    """Results and gradients of the operator, by the C++ kernels if they are in use."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    more = (options["block_size"], options["num_heads"], options["scale"])
    extreme, position, sums = torch.ops.sasa.block_attention_pooled(*leaves, sign, *more)
    torch.autograd.backward([extreme, sums], grads_of(extreme, sums))
    return [extreme.detach(), position, sums.detach()], [None if t is None else t.grad for t in leaves]


def in_plain_torch(tensors, sign, options):
    """The same by the implementation in plain torch."""
    inputs, options = BlockInputs(*tensors), BlockOptions(*(options[name] for name in BlockOptions._fields))
    extreme, position, sums = plain._forward(PooledForward(inputs, sign, options))
    grads = plain._backward(PooledBackward(*grads_of(extreme, sums), position, inputs, options, True))
    return [extreme, position, sums], [None if t is None else g for t, g in zip(tensors, grads, strict=True)]


def by_reference(tensors, sign, options, position):
    """Results and gradients of the reference in float64, the extremes taken at the given positions."""
    leaves = [None if t is None else t.requires_grad_() for t in double(tensors)]
    best = fused.block_attention_pooled(*double(tensors), sign.double(), **options)
    extreme, _, sums = fused.block_attention_pooled(*leaves, sign.double(), position=position, **options)
    return best, [extreme, sums], leaves


BOTH = pytest.mark.parametrize("run", [kernels, pytest.param(in_plain_torch, marks=WITHOUT_KERNELS)])


@DTYPES
@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@BOTH
def test_it_is_attention_then_the_extremes_and_the_sums(run, shape, terms, values, layout, dtype):
    tensors, sign = make(shape, terms, values, dtype, layout)
    options, tolerance = options_of(shape), TOLERANCE[dtype]
    (extreme, position, sums), grads = run(tensors, sign, options)
    (best, at, _), (there, all_sums), leaves = by_reference(tensors, sign, options, position)
    assert (extreme.dtype, position.dtype, sums.dtype) == (dtype, torch.uint8, torch.float64)
    assert extreme.is_contiguous(memory_format=layout) or 1 in extreme.shape
    assert_close(extreme, best, tolerance, name="extreme")
    assert_close(there, best, tolerance, name="values at the positions")
    if dtype == torch.float64:
        assert torch.equal(position, at)
    grad_extreme, grad_sums = grads_of(extreme, sums)
    size = grad_extreme.double().norm().item() + grad_sums.norm().item()
    assert_close(sums, all_sums, tolerance, name="sums")
    torch.autograd.backward([there, all_sums], [grad_extreme.double(), grad_sums])
    for name, tensor, grad, leaf in zip(BLOCK_NAMES, tensors, grads, leaves, strict=True):
        if tensor is not None:
            assert (grad.dtype, grad.stride()) == (dtype, tensor.stride())
            assert_close(grad, leaf.grad, tolerance, otherwise=size, name=name)


@BOTH
@pytest.mark.parametrize("values", ["weights", "map"])
def test_an_empty_batch(run, values):
    shape = (0, *SHAPES[0][1:])
    (extreme, position, sums), grads = run(*make(shape, values=values, dtype=torch.float32), options_of(shape))
    assert extreme.shape == position.shape == (0, 8, 2, 3)
    assert not sums.any()
    assert all(grad is None or not grad.any() for grad in grads)


@pytest.mark.parametrize("result", [0, 1], ids=["extreme", "sums"])
def test_either_result_may_be_differentiated_alone(result):
    shape = SHAPES[1]
    tensors, sign = make(shape)
    leaves = [None if t is None else t.requires_grad_() for t in tensors]
    got = block_attention_pooled(*leaves, sign, **options_of(shape))[result]
    want = fused.block_attention_pooled(*leaves, sign, **options_of(shape))[2 * result]
    grad = normal(*got.shape, seed=3)
    given = [t for t in leaves if t is not None]
    for one, other in zip(torch.autograd.grad(got, given, grad), torch.autograd.grad(want, given, grad), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("values", ["weights", "map"])
def test_an_image_that_needs_no_gradient(values):
    """As in training: the weights' gradients do not depend on whether the image's is computed."""
    shape = SHAPES[1]
    tensors, sign = make(shape, values=values)
    want = kernels(tensors, sign, options_of(shape))[1]
    leaves = [t if t is None or n == 0 else t.detach().requires_grad_() for n, t in enumerate(tensors)]
    more = (options_of(shape)[name] for name in ("block_size", "num_heads", "scale"))
    extreme, _, sums = torch.ops.sasa.block_attention_pooled(*leaves, sign, *more)
    torch.autograd.backward([extreme, sums], grads_of(extreme, sums))
    for n, leaf in enumerate(leaves):
        if n > 0 and leaf is not None:
            assert_close(leaf.grad, want[n])


@BOTH
def test_the_first_of_equal_values_is_taken(run):
    """As max pooling does: a constant image has the same y everywhere."""
    shape = (1, 3, 2, 4, 2, 6, 5, 4)
    tensors, sign = make(shape, dtype=torch.float32)
    tensors[0] = torch.ones(1, 3, 6, 5)
    tensors[3] = tensors[3][:1].expand(16, -1, -1).contiguous()
    tensors[4:6] = [torch.zeros_like(t) for t in tensors[4:6]]
    assert not run(tensors, sign, options_of(shape))[0][1].any()


def test_batch_norm_and_max_pool_follow_from_it():
    """gain * y + shift, then max pooling, is gain * extreme + shift where `sign` is the gain's."""
    shape = SHAPES[7]
    tensors, gain = make(shape)
    image, *weights, value = tensors
    extreme, sums = block_attention_pooled(*tensors, gain, **options_of(shape))
    y = fused.block_attention(
        image, *weights[:3], *weights[3:], value=value, **options_of(shape), backend="reference"
    )  # fmt: skip
    want = F.max_pool2d(gain[:, None, None] * y, 4, ceil_mode=True)
    assert_close(gain[:, None, None] * extreme, want)
    count = y.shape[0] * y.shape[2] * y.shape[3]
    variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
    assert_close(sums[0] / count, mean)
    assert_close(sums[1] / count - (sums[0] / count) ** 2, variance)


def test_autocast_rounds_image_and_weights():
    shape = SHAPES[0]
    (image, *weights, value), sign = make(shape, dtype=torch.float32)
    options = options_of(shape)
    with torch.autocast("cpu", torch.bfloat16):
        got, sums = block_attention_pooled(image, *weights, value, sign, **options)
    half = [None if w is None else w.bfloat16() for w in weights[:3]]
    want, all_sums = block_attention_pooled(image.bfloat16(), *half, *weights[3:], value, sign, **options)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)
    assert torch.equal(sums, all_sums)


@OPCHECK
@pytest.mark.parametrize(
    ("terms", "values", "dtype", "layout"),
    [
        ("both", "weights", torch.float32, torch.contiguous_format),
        ("content", "map", torch.float32, torch.channels_last),
        ("relative", "weights", torch.bfloat16, torch.channels_last),
    ],
    ids=str,
)
def test_opcheck(terms, values, dtype, layout):
    shape = (2, 3, 2, 4, 2, 5, 6, 4)
    tensors, sign = make(shape, terms, values, dtype, layout)
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    torch.library.opcheck(torch.ops.sasa.block_attention_pooled.default, (*leaves, sign, 4, 2, 0.5))
    extreme, position, sums = torch.ops.sasa.block_attention_pooled(*tensors, sign, 4, 2, 0.5)
    backward = torch.ops.sasa.block_attention_pooled_backward.default
    for image_gradient in (True, False):
        grads = (torch.ones_like(extreme), torch.ones_like(sums), position)
        arguments = (*grads, *tensors, 4, 2, 0.5, image_gradient)
        torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("values", ["weights", "map"])
def test_gradcheck_and_gradgradcheck(values, check):
    shape = (1, 2, 2, 2, 1, 3, 2, 2)
    tensors, sign = make(shape, values=values)
    function, given = of_given(lambda *t: block_attention_pooled(*t, sign, **options_of(shape)), tensors)
    assert check(function, given)


@NEEDS_KERNELS
def test_the_kernels_check_what_they_read():
    tensors, sign = make(SHAPES[0], dtype=torch.float32)
    options = options_of(SHAPES[0])
    with pytest.raises(RuntimeError, match="sign does not fit the other arguments in device or shape"):
        block_attention_pooled(*tensors, sign[:3], **options)
    with pytest.raises(RuntimeError, match="w_value does not fit"):
        block_attention_pooled(*tensors, sign, **{**options, "block_size": 3})


@BOTH
def test_a_nan_is_not_lost(run):
    """As in max pooling: divergence must stay visible."""
    shape = (1, 2, 1, 2, 2, 2, 4, 2)
    tensors, sign = make(shape, "relative", "map", torch.float32)
    tensors[0][0, :, 0, 1] = float("nan")  # without content only this query's logits are affected
    extreme = run(tensors, sign, options_of(shape))[0][0]
    assert extreme[0, :, 0, 0].isnan().all()
    assert not extreme[0, :, 0, 1].isnan().any()


def test_a_block_of_more_than_a_byte_of_positions_is_refused():
    image, w = torch.randn(1, 1, 17, 17), torch.randn(2, 1)
    with pytest.raises(ValueError, match=r"block_size \(17\) must be at most 16"):
        block_attention_pooled(
            image, w, w, w.expand(289, 2, 1), None, None, None, torch.ones(2), block_size=17, num_heads=1, scale=1.0
        )
