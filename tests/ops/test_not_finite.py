"""NaN and infinity reach exactly the outputs and gradients that they reach in the reference.

Divergence must stay visible, and one bad image must not affect the others of its batch. Every
operator is tested in every form with one number of one input replaced: first, middle and last, forward and backward.
"""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fused
from comparison import block
from helpers import NEEDS_KERNELS, backend_params, block_inputs, double, local_inputs, normal, output_and_gradients
from operators import qkv_attention, qkv_attention_inference
from sasa.ops import local_attention
from sasa.ops.norm_relu import affine_, norm_relu

BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
LAST = torch.channels_last

LOCAL_SHAPES = [  # batch, heads, head_dim, value_dim, height, width, kernel_size: each kind of tile and remainder
    (2, 2, 8, 8, 7, 19, 3),
    (1, 2, 4, 10, 5, 37, 7),
    (1, 1, 16, 3, 4, 16, 5),
    (1, 2, 2, 9, 4, 9, 9),
    (1, 1, 6, 8, 10, 20, 11),
    (2, 1, 4, 4, 3, 2, 13),
    (2, 2, 8, 8, 9, 11, 7),
    (4, 2, 4, 4, 1, 1, 3),  # from here on a SIMD lane is a head of an image
    (9, 2, 4, 4, 4, 4, 5),
    (3, 3, 2, 5, 3, 7, 7),
]
BLOCK_SHAPES = [  # batch, channels, heads, head_dim, value_dim, height, width, block_size
    (2, 3, 2, 8, 4, 9, 11, 4),
    (1, 3, 1, 4, 3, 5, 9, 3),
    (1, 2, 2, 2, 5, 3, 70, 2),
]


def kinds(tensor: Tensor) -> Tensor:
    """0 for a number, 1 for NaN, 2 for infinity, 3 for minus infinity."""
    return tensor.isnan() + 2 * tensor.isposinf() + 3 * tensor.isneginf()


def spoiled(tensors: list[Tensor | None], value: float) -> Iterator[tuple[str, list[Tensor | None]]]:
    """The tensors with one number replaced: the first, a middle one and the last of each tensor in turn."""
    for n, tensor in enumerate(tensors):
        if tensor is None:
            continue
        for place in sorted({0, min(tensor.numel() // 2 + 1, tensor.numel() - 1), tensor.numel() - 1}):
            changed = tensor.clone()  # keeps the layout
            changed[tuple(int(i) for i in torch.unravel_index(torch.tensor(place), tensor.shape))] = value
            yield f"input {n} at {place}", [*tensors[:n], changed, *tensors[n + 1 :]]


def assert_same_kinds(got: list, want: list, name: str, *, exact: int | None = None) -> None:
    """Assert the same kinds of numbers in all results; from result `exact` on, NaN and infinity are one kind."""
    for n, (one, expected) in enumerate(zip(got, want, strict=True)):
        if one is None:
            continue
        have, should = kinds(one), kinds(expected)
        if exact is not None and n >= exact:
            have, should = have > 0, should > 0
        wrong = int((have != should).sum())
        assert not wrong, f"{name}: {wrong} of {one.numel()} numbers of result {n} are of another kind"


def local_cases(shape: tuple[int, ...]) -> list[tuple[str, str, torch.memory_format]]:
    """Two of the combinations of terms, padding and layout for each shape; all of them over all shapes."""
    n = LOCAL_SHAPES.index(shape)
    paddings = ("zeros", "mask") if n % 2 else ("mask", "zeros")
    return [("both", paddings[0], LAST), (("content", "relative")[n // 2 % 2], paddings[1], torch.contiguous_format)]


def laid(tensors, layout):
    return [t if t is None or t.dim() < 4 else t.contiguous(memory_format=layout) for t in tensors]


def assert_same_everywhere(
    run: Callable, expected: Callable, tensors: list, value: float, name: str, *, exact: int | None = None
) -> None:
    """Compare `run` and `expected`, functions of the tensors, the last of which may be the gradient of the output."""
    for place, changed in spoiled(tensors, value):
        assert_same_kinds(run(changed), expected(double(changed)), f"{name}, {place}", exact=exact)


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("backend", backend_params("auto", "eager"))
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((shape, torch.float32) for shape in LOCAL_SHAPES),
        *((LOCAL_SHAPES[n], dtype) for n in (5, 8) for dtype in (torch.float64, torch.bfloat16)),
    ],
    ids=str,
)
def test_local_attention(backend, shape, dtype, value):
    for terms, padding, layout in local_cases(shape):
        batch, heads, _, value_dim, height, width, kernel = shape
        grad = normal(batch, heads * value_dim, height, width, seed=9, dtype=dtype)
        options = {"kernel_size": kernel, "num_heads": heads, "padding": padding, "scale": 0.7}
        options["content"] = terms != "relative"
        tensors = [*laid(local_inputs(*shape, terms=terms, dtype=dtype), layout), grad]
        assert_same_everywhere(
            lambda t, o=options: output_and_gradients(local_attention, t[:-1], t[-1], **o, backend=backend),
            lambda t, o=options: output_and_gradients(local_attention, t[:-1], t[-1], **o, backend="reference"),
            tensors, value, f"{terms} {padding} {layout}",
        )  # fmt: skip


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("shape", LOCAL_SHAPES, ids=str)
def test_one_map_of_queries_keys_and_values(shape, value):
    n = LOCAL_SHAPES.index(shape)
    batch, heads, head_dim, _, height, width, kernel = shape
    dtype = torch.float32
    terms, channels = ("both", "content", "relative")[n % 3], heads * head_dim
    *maps, rel_row, rel_col = local_inputs(
        batch, heads, head_dim, head_dim, height, width, kernel, terms=terms, dtype=dtype
    )
    options = {"kernel_size": kernel, "num_heads": heads, "padding": ("zeros", "mask")[n % 2], "scale": 0.7}
    options["content"] = terms != "relative"
    qkv = torch.cat([m for m in maps if m is not None], 1).contiguous(memory_format=LAST)
    grad = normal(batch, channels, height, width, seed=9, dtype=dtype)
    assert_same_everywhere(
        lambda t: output_and_gradients(qkv_attention, t[:-1], t[-1], **options),
        lambda t: output_and_gradients(fused.qkv_attention, t[:-1], t[-1], **options),
        [qkv, rel_row, rel_col, grad], value, terms,
    )  # fmt: skip
    affine = [normal(channels, seed=seed, dtype=dtype) for seed in (5, 6)]
    for relu, pool in ((True, 2), (False, 1)):
        assert_same_everywhere(
            lambda t, r=relu, p=pool: [qkv_attention_inference(*t, **options, relu=r, pool=p)],
            lambda t, r=relu, p=pool: [fused.qkv_attention_inference(*t, **options, relu=r, pool=p)],
            [qkv, rel_row, rel_col, *affine], value, f"{terms} for inference, pool {pool}",
        )  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("backend", backend_params("auto", "eager"))
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((shape, torch.float32) for shape in BLOCK_SHAPES), (BLOCK_SHAPES[1], torch.float64)],
    ids=str,
)
def test_block_attention(backend, shape, dtype, values, bad):
    batch, _, heads, _, value_dim, height, width, block_size = shape
    for terms in ("both", "content", "relative"):
        grad = normal(batch, heads * value_dim, height, width, seed=9, dtype=dtype)
        options = {"block_size": block_size, "num_heads": heads, "scale": 0.7, "content": terms != "relative"}
        tensors = [*laid(block_inputs(*shape, terms=terms, values=values, dtype=dtype), LAST), grad]
        assert_same_everywhere(
            lambda t, o=options: output_and_gradients(block, t[:-1], t[-1], **o, backend=backend),
            lambda t, o=options: output_and_gradients(block, t[:-1], t[-1], **o, backend="reference"),
            # Of these, M = W_Q^T W_K and W_Q^T r are the kernels' inner sums: NaN for what may be infinite.
            tensors, bad, terms, exact=1,
        )  # fmt: skip


def pooled(tensors: list, sign: Tensor, options: dict, position: Tensor | None) -> list:
    """Extremes, sums, and the gradients of all tensors."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    if position is None:
        more = (options["block_size"], options["num_heads"], options["scale"])
        extreme, position, sums = torch.ops.sasa.block_attention_pooled(*leaves, sign, *more)
    else:
        extreme, _, sums = fused.block_attention_pooled(*leaves, sign, position=position, **options)
    grads = [normal(*extreme.shape, seed=98).to(extreme.dtype), normal(*sums.shape, seed=99)]
    torch.autograd.backward([extreme, sums], grads)
    return [extreme.detach(), sums.detach(), *(None if t is None else t.grad for t in leaves), position]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("shape", BLOCK_SHAPES, ids=str)
def test_block_attention_pooled(shape, values, bad):
    dtype = torch.float32
    for terms in ("both", "relative"):
        options = {"block_size": shape[-1], "num_heads": shape[2], "scale": 0.7}
        tensors = laid(block_inputs(*shape, terms=terms, values=values, dtype=dtype), LAST)
        sign = normal(shape[2] * shape[4], seed=77, dtype=dtype)
        for place, changed in spoiled(tensors, bad):
            *got, position = pooled(changed, sign, options, None)
            want = pooled(double(changed), sign.double(), options, position)[:-1]
            assert_same_kinds(got, want, f"{terms} {place}", exact=2)


@NEEDS_KERNELS  # without them it is torch, whose formula for an infinite weight depends on the layout
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (3, 37, 2, 9), (1, 70, 9, 8)], ids=str)
def test_between_convolutions(shape, bad):
    x, residual = (normal(*shape, seed=s, dtype=torch.float32).contiguous(memory_format=LAST) for s in (0, 1))
    gain, shift = (normal(shape[1], seed=s, dtype=torch.float32) for s in (2, 3))
    grad = normal(*shape, seed=9, dtype=torch.float32).contiguous(memory_format=LAST)
    for layout in (LAST, torch.contiguous_format):
        for relu in (True, False):

            def run(t, layout=layout, relu=relu):
                x, gain, shift, residual = t
                return [affine_(*laid([x.clone()], layout), gain, shift, *laid([residual], layout), relu=relu)]

            def expected(t, relu=relu):
                y = t[0] * t[1][:, None, None] + t[2][:, None, None] + t[3]
                return [y.relu() if relu else y]

            assert_same_everywhere(run, expected, [x, gain, shift, residual], bad, f"affine_ {layout} {relu}")

    for relu in (True, False):
        for rest in ([residual], []):

            def normed(t, relu=relu):
                leaves = [one.detach().requires_grad_() for one in t[:-1]]
                y = norm_relu(*leaves[:3], *(leaves[3:] or [None]), relu=relu, eps=1e-5)[0]
                return [y.detach(), *torch.autograd.grad(y, leaves, t[-1].contiguous(memory_format=LAST))]

            def of_torch(t, relu=relu):
                leaves = [one.detach().requires_grad_() for one in t[:-1]]
                y = F.batch_norm(leaves[0], None, None, *leaves[1:3], training=True, eps=1e-5)
                y = y + leaves[3] if leaves[3:] else y
                y = y.relu() if relu else y
                return [y.detach(), *torch.autograd.grad(y, leaves, t[-1])]

            assert_same_everywhere(normed, of_torch, [x, gain, shift, *rest, grad], bad, f"norm_relu {relu}")


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("channels", [(37, 70), (12, 32), (5, 3)], ids=str)
def test_gradient_of_pointwise_weights(channels, bad):
    grad, x = (normal(2, c, 9, 11, seed=c, dtype=torch.float32).contiguous(memory_format=LAST) for c in channels)

    def run(t):
        return [torch.ops.sasa.pointwise_gradient(*t)]

    def expected(t):
        return [torch.einsum("bohw,bihw->oi", *t)[:, :, None, None]]

    assert_same_everywhere(run, expected, [grad, x], bad, "pointwise_gradient")
