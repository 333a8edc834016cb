"""Local attention without tensor cores, in emulation: agreement with the float64 reference, and the plans."""

import itertools

import pytest
import torch

from comparison import LAYOUTS, LOCAL_NAMES, assert_agrees, laid_out, local_grad_output, local_options, local_reference
from cuda import plain
from cuda.plans import plan, sum_parts
from cuda.structs import LocalBackward, Map, PlainPlan
from helpers import TOLERANCE, assert_close, double, local_inputs, normal, output_and_gradients
from sasa.ops import reference
from sasa.ops.arguments import LocalInputs, LocalOptions
from sasa.ops.local_attention import local_attention

# batch, heads, channels of a head, value channels of a head, height, width, window
COMMON = (2, 2, 8, 8, 6, 5, 7)
ODD_SHAPES = {
    "one_column": (1, 3, 4, 6, 5, 1, 3),
    "one_row": (1, 2, 6, 5, 1, 11, 5),
    "smaller_than_the_window": (2, 1, 2, 3, 3, 2, 9),
    "window_of_one": (1, 2, 2, 3, 4, 4, 1),
    "window_that_is_not_unrolled": (1, 1, 2, 2, 5, 4, 13),
    "prime_head_of_many_lanes": (1, 1, 70, 37, 3, 4, 3),
}
PADDINGS = pytest.mark.parametrize("padding", ["zeros", "mask"])
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))


def attend(tensors, grad_output, options):
    """Output and gradients by the kernels."""
    output, logsumexp = plain.forward(*tensors, **options)
    return [output, *plain.backward(grad_output, *tensors, logsumexp, **options)]


def check(shape, padding, terms, dtype, layout="channels_last", scale=1.0):
    options = local_options(shape, padding, terms, scale)
    tensors = laid_out(local_inputs(*shape, terms=terms, dtype=dtype), layout)
    grad_output = laid_out([local_grad_output(shape, dtype)], layout)[0]
    got = attend(tensors, grad_output, options)
    assert_agrees(got, local_reference(shape, padding, terms, dtype, scale), dtype, grad_output, LOCAL_NAMES)


@DTYPES
@PADDINGS
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_agrees(dtype, padding, terms):
    check(COMMON, padding, terms, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@PADDINGS
def test_planar_maps(dtype, padding):
    check(COMMON, padding, "both", dtype, "contiguous")


@PADDINGS
@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES)
def test_odd_shapes(shape, padding):
    check(shape, padding, "both" if shape[2] % 2 == 0 else "content", torch.float64, scale=0.3)


def test_heads_of_several_lanes():
    check((1, 2, 32, 16, 5, 6, 3), "zeros", "both", torch.float32)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("expanded")])
def test_any_strides(layout):
    check((2, 2, 6, 4, 5, 6, 3), "zeros", "both", torch.float32, layout)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("expanded")])
def test_maps_that_repeat_themselves(layout):
    shape = (2, 2, 6, 4, 5, 6, 3)
    options = local_options(shape, "zeros", "both")
    tensors = laid_out(local_inputs(*shape, dtype=torch.float32), layout)
    grad_output = laid_out([local_grad_output(shape, torch.float32)], layout)[0]
    leaves = double([t.contiguous() for t in tensors])
    want = output_and_gradients(local_attention, leaves, grad_output.double(), **options, backend="reference")
    assert_agrees(attend(tensors, grad_output, options), want, torch.float32, grad_output, LOCAL_NAMES)


def test_the_log_sum_exp_is_the_references():
    shape = (1, 2, 4, 4, 4, 5, 3)
    for padding in ("zeros", "mask"):
        tensors = local_inputs(*shape)
        options = {"kernel_size": 3, "num_heads": 2, "padding": padding, "scale": 0.7}
        want = reference.local_attention(LocalInputs(*tensors), LocalOptions(**options))[1]
        assert_close(plain.forward(*tensors, **options)[1], want)


def test_offsets_of_more_than_32_bits():
    """Two images that lie 2**31 elements apart. Memory that is never touched costs nothing."""
    shape = (2, 1, 4, 4, 3, 2, 3)
    tensors, strides = local_inputs(*shape, dtype=torch.float16), (2**31 + 8, 1, 8, 4)
    far = []
    for n, tensor in enumerate(tensors[:3]):
        memory = torch.empty(2**31 + 512, dtype=torch.float16)
        far.append(memory[64 * n :].as_strided(tensor.shape, strides).copy_(tensor))
    options = local_options(shape, "zeros", "both")
    want = local_reference(shape, "zeros", "both", torch.float16)[0]
    assert_close(plain.forward(*far, *tensors[3:], **options)[0], want, TOLERANCE[torch.float16])


@pytest.mark.parametrize(("dtype", "pool", "relu"), [
    (torch.float32, 2, True), (torch.float32, 1, True), (torch.bfloat16, 2, False), (torch.float64, 2, True)
])  # fmt: skip
def test_inference_fuses_pooling_gain_shift_and_relu(dtype, pool, relu):
    shape = (2, 2, 8, 8, 7, 5, 7)
    tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
               for t in local_inputs(*shape, dtype=dtype)]  # fmt: skip
    options = local_options(shape, "zeros", "both")
    gain, shift = normal(16, seed=7), normal(16, seed=8)
    got, _ = plain.forward(*tensors, **options, pool=pool, gain=gain, shift=shift, relu=relu)
    y = local_reference(shape, "zeros", "both", dtype)[0]
    if pool == 2:
        y = torch.nn.functional.avg_pool2d(y, 2, ceil_mode=True, count_include_pad=False)
    y = y * gain[:, None, None] + shift[:, None, None]
    assert_close(got, y.relu() if relu else y, TOLERANCE[dtype])


def test_relu_does_not_hide_a_nan():
    tensors = local_inputs(1, 1, 2, 2, 3, 3, 3, dtype=torch.float32)
    tensors[2][0, 1, 0, 0] = float("nan")
    options = {"kernel_size": 3, "num_heads": 1}
    got = plain.forward(*tensors, **options, relu=True)[0]
    assert torch.equal(got.isnan(), plain.forward(*tensors, **options)[0].isnan())
    assert got[0, 1, 1, 1].isnan()


# ------------------------------------------------------------------------------------------ numbers that are not finite

NOT_FINITE_SHAPE = (1, 2, 4, 2, 6, 5, 3)
PLACES = [(0, 3, 0, 0), (0, 5, 3, 2)]  # a corner, seen by half-empty windows, and the middle


def same(got: torch.Tensor | None, want: torch.Tensor | None, most: torch.Tensor | None, name: str) -> None:
    """NaN and infinities where the reference has them, or also where `most` has NaN; the same numbers elsewhere."""
    assert (got is None) == (want is None), name
    if got is None or want is None:
        return
    allowed = want.isnan() if most is None else want.isnan() | most.isnan()
    assert not (got.isnan() & ~allowed).any(), f"{name}: NaN in the wrong place"
    assert not (want.isnan() & ~got.isnan()).any(), f"{name}: a NaN is lost"
    rest = ~got.isnan()
    assert torch.equal(got.isinf()[rest], want.isinf()[rest]), name
    finite = rest & want.isfinite()
    assert_close(got[finite], want[finite], name=name)


def spoilt_inputs(name: str, number: float, terms: str, place: tuple[int, ...]):
    """Inputs and the output's gradient with a number in one of them; None where there is no such input."""
    b, c, y, x = place
    tensors = local_inputs(*NOT_FINITE_SHAPE, terms=terms)
    grad_output = local_grad_output(NOT_FINITE_SHAPE, torch.float64)
    spoilt = {**dict(zip(LOCAL_NAMES, tensors, strict=True)), "grad_output": grad_output}[name]
    if spoilt is None:
        return None
    if spoilt.dim() == 4:
        spoilt[b, c % spoilt.shape[1], y, x] = number
    else:
        spoilt[1, y % 3, 1] = number
    return tensors, grad_output


def by_reference(tensors, grad_output, options):
    return output_and_gradients(local_attention, tensors, grad_output, **options, backend="reference")


@PADDINGS
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")], ids=["nan", "inf", "minus_inf"])
@pytest.mark.parametrize("name", [*LOCAL_NAMES, "grad_output"])
def test_nonfinite_values_propagate_as_in_the_reference(name, number, padding):
    """Except that for an infinite query, keys without weight may also get NaN, as for a query that is NaN."""
    options = local_options(NOT_FINITE_SHAPE, padding, "both")
    for terms, place in itertools.product(("both", "relative"), PLACES):
        options["content"] = terms == "both"
        spoilt = spoilt_inputs(name, number, terms, place)
        if spoilt is None:
            continue
        want, got = by_reference(*spoilt, options), attend(*spoilt, options)
        most = (
            by_reference(*spoilt_inputs(name, float("nan"), terms, place), options) if name == "query" else [None] * 6
        )
        for label, one, expected, all_nan in zip(("output", *LOCAL_NAMES), got, want, most, strict=True):
            same(one, expected, all_nan, f"{label} of {terms} with {number} in {name} at {place}")


# ------------------------------------------------------------------------------------------------------ sums and plans


def test_results_are_the_same_bits_every_time():
    options = local_options(COMMON, "zeros", "both")
    tensors = local_inputs(*COMMON, dtype=torch.float32)
    grad_output = local_grad_output(COMMON, torch.float32)
    first, second = (attend(tensors, grad_output, options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_are_added_up(dtype):
    parts = normal(70, 45, dtype=dtype)
    assert_close(sum_parts(parts), parts.double().sum(0), 1e-7 if dtype == torch.float32 else 1e-14)


def backward_plan(query: torch.Tensor, heads: int, window: int, **changes) -> PlainPlan:
    call = LocalBackward(plain.shape_of(query, query, window, heads, "zeros", 1.0))
    for name in "grad_output query key value grad_query grad_key grad_value".split():
        setattr(call, name, Map.of(query))
    call.rel_row = call.rel_col = 1 << 20
    for name, value in changes.items():
        setattr(call, name, value)
    return plan("plain_backward", call, PlainPlan)


def test_lanes_load_16_bytes_where_maps_are_aligned():
    whole = torch.empty(2, 64, 8, 8, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    assert dict(backward_plan(whole, 8, 7).keys.variant())["SASA_VECTOR_D"] == 8
    shifted = torch.empty(2, 65, 8, 8, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)[:, :64]
    assert dict(backward_plan(shifted, 8, 7).keys.variant())["SASA_VECTOR_D"] == 1
    planar = dict(backward_plan(whole.contiguous(), 8, 7).keys.variant())
    assert (planar["SASA_VECTOR_D"], planar["SASA_PLANAR"]) == (1, 1)


def test_the_parts_of_the_tables_stay_small():
    """However many tiles there are: at most 32 MB, or 64 parts."""
    query = torch.empty(1, 8, 1, 1).expand(256, 8, 64, 64)
    assert backward_plan(query, 2, 7).parts == 4096
    wide = torch.empty(1, 4096, 1, 1).expand(64, 4096, 64, 64)
    assert backward_plan(wide, 8, 11).parts == 186
    assert backward_plan(query, 2, 7, rel_row=None).parts == 0


def test_an_image_of_too_many_pixels_is_refused():
    query = torch.empty(1, 1, 1, 1).expand(1, 1, 2**17, 2**17)
    with pytest.raises(ValueError, match=r"an image has more than 2\*\*31 pixels and heads"):
        backward_plan(query, 1, 3)
