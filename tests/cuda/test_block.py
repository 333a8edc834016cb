"""Block attention, the stem's, in emulation: agreement with the float64 reference, and the plans."""

import pytest
import torch

import comparison
from comparison import BLOCK_NAMES, LAYOUTS, assert_agrees, block_grad_output, block_options, block_reference, laid_out
from cuda import block
from cuda.emulator import Counts
from cuda.plans import plan
from cuda.structs import BlockBackward, BlockForward, BlockPlan, Map
from helpers import TOLERANCE, assert_close, block_inputs, double, normal, output_and_gradients, relative_error
from sasa.ops import reference
from sasa.ops.arguments import BlockInputs, BlockOptions

# batch, channels, heads, channels of a head, value channels of a head, height, width, block size
COMMON = (2, 3, 2, 4, 8, 9, 10, 4)
ODD_SHAPES = {
    "blocks_of_9": (1, 2, 2, 4, 5, 7, 9, 3),
    "more_channels_than_a_chunk": (1, 1, 1, 2, 20, 5, 3, 2),
    "blocks_of_one": (1, 5, 1, 2, 2, 3, 4, 1),
    "the_largest_blocks": (1, 2, 1, 2, 3, 17, 18, 16),
    "smaller_than_a_block": (2, 1, 1, 2, 3, 2, 3, 5),
}
STEMS = {  # for tensor cores
    "resnet": (2, 3, 4, 16, 16, 13, 22, 4),
    "more_heads_than_warps": (1, 1, 10, 6, 16, 5, 3, 4),
    "several_strips": (1, 4, 1, 2, 16, 8, 300, 4),
}
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
NAN = float("nan")


def inputs(shape, terms="both", values="weights", dtype=torch.float64, layout="channels_last"):
    return laid_out(block_inputs(*shape, terms=terms, values=values, dtype=dtype), layout)


def sign_of(shape):
    return normal(shape[2] * shape[4], seed=3)


def check(shape, terms, values, dtype, layout="channels_last"):
    options = block_options(shape, terms)
    tensors = inputs(shape, terms, values, dtype, layout)
    grad_output = laid_out([block_grad_output(shape, dtype)], layout)[0]
    got = [block.forward(*tensors, **options)[0], *block.backward(grad_output, *tensors, **options)]
    assert_agrees(got, block_reference(shape, terms, values, dtype), dtype, grad_output, BLOCK_NAMES)


@DTYPES
@pytest.mark.parametrize(("terms", "values"), [("both", "weights"), ("content", "map"), ("relative", "weights")])
def test_agrees(dtype, terms, values):
    check(COMMON, terms, values, dtype)


@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES)
@pytest.mark.parametrize(("terms", "values"), [("both", "weights"), ("relative", "map")])
def test_odd_shapes(shape, terms, values):
    check(shape, terms, values, torch.float64)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("expanded")])
def test_any_strides(layout):
    check(COMMON, "both", "map", torch.float32, layout)


def test_the_log_sum_exp_is_the_references():
    tensors = inputs(COMMON)
    want = reference.block_attention(BlockInputs(*tensors), BlockOptions(4, 2, 0.7))[1]
    assert_close(block.forward(*tensors, block_size=4, num_heads=2, scale=0.7)[1], want)


# ------------------------------------------------------------------------------------------------------------- pooling


def full_map(tensors, options):
    """The reference's output in float64, differentiable."""
    size = BlockOptions(options["block_size"], options["num_heads"], 1.0)
    return reference.block_attention(BlockInputs(*tensors), size)[0]


def at_positions(y, position, block_size):
    """The values at the given positions of each block."""
    blocks = reference.to_blocks(y, block_size).permute(0, 4, 1, 2, 3)  # (B, C, I, J, P)
    return blocks.gather(-1, position.long()[..., None])[..., 0]


def best(y, sign, block_size):
    toward = torch.where(sign < 0, -1.0, 1.0).double()[:, None, None]
    return torch.nn.functional.max_pool2d(y * toward, block_size, ceil_mode=True) * toward


def check_pooled(shape, terms, values, dtype, layout="channels_last", image_gradient=True):
    """Extremes, positions, sums, and the gradients that go with those positions."""
    options, sign = block_options(shape, terms), sign_of(shape)
    tensors = inputs(shape, terms, values, dtype, layout)
    leaves = [None if t is None else t.requires_grad_() for t in double(tensors)]
    y = full_map(leaves, options)
    extreme, position, sums = block.pooled(*tensors, sign=sign, **options)
    tolerance, size = TOLERANCE[dtype], y.norm().item()
    want = best(y, sign, shape[-1])
    assert_close(extreme, want, tolerance, name="extreme")
    chosen = at_positions(y, position, shape[-1])
    assert_close(chosen, want, tolerance, name="the map where the extremes are said to lie")
    sums_of_y = torch.stack([y.sum((0, 2, 3)), y.square().sum((0, 2, 3))])
    assert_close(sums, sums_of_y, tolerance, otherwise=size, name="sums")

    grad_extreme = laid_out([normal(*extreme.shape, seed=5, dtype=dtype)], layout)[0]
    grad_sums = 0.1 * normal(*sums.shape, seed=6)
    got = block.pooled_backward(grad_extreme, grad_sums, position, *tensors, image_gradient=image_gradient, **options)
    ((chosen * grad_extreme.double()).sum() + (sums_of_y * grad_sums).sum()).backward()
    assert (got[0] is not None) == image_gradient
    for name, one, leaf in list(zip(BLOCK_NAMES, got, leaves, strict=True))[0 if image_gradient else 1 :]:
        assert (one is None) == (leaf is None), name
        if one is not None:
            assert_close(one, leaf.grad, tolerance, otherwise=grad_extreme.double().norm().item(), name=name)


@DTYPES
@pytest.mark.parametrize(("terms", "values"), [("both", "weights"), ("relative", "map")])
def test_pooling(dtype, terms, values):
    check_pooled(COMMON, terms, values, dtype)


@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES)
def test_pooling_of_odd_shapes(shape):
    check_pooled(shape, "both", "weights", torch.float64)


@HALVES
@pytest.mark.parametrize("shape", STEMS.values(), ids=STEMS)
def test_pooling_on_tensor_cores(shape, dtype):
    check_pooled(shape, "both", "weights", dtype, image_gradient=False)


@pytest.mark.parametrize("terms", ["content", "relative"])
@pytest.mark.parametrize("layout", ["contiguous", "sliced"])
def test_tensor_cores_take_any_strides_and_terms(layout, terms):
    check_pooled(STEMS["resnet"], terms, "weights", torch.float16, layout, image_gradient=False)


def test_inference_needs_no_sums():
    shape, sign = STEMS["resnet"], sign_of(STEMS["resnet"])
    tensors, options = inputs(shape, dtype=torch.bfloat16), block_options(shape, "both")
    extreme, _, sums = block.pooled(*tensors, sign=sign, **options, with_sums=False)
    assert sums is None
    assert torch.equal(extreme, block.pooled(*tensors, sign=sign, **options)[0])


def test_the_first_of_equal_pixels_is_the_extreme():
    """As in max pooling, the first of equal values is taken, as in a black image."""
    for shape, dtype in ((STEMS["resnet"], torch.bfloat16), (COMMON, torch.float32)):
        tensors = inputs(shape, dtype=dtype)
        tensors[0].zero_()
        extreme, position, _ = block.pooled(*tensors, sign=sign_of(shape), **block_options(shape, "both"))
        assert not extreme.any()
        assert not position.any()


def test_shared_memory_of_the_stem_has_no_bank_conflicts():
    shape = (1, 3, 4, 16, 16, 8, 224, 4)
    options, tensors = block_options(shape, "both"), inputs(shape, dtype=torch.bfloat16)
    forward, backward = Counts(), Counts()
    extreme, position, sums = block.pooled(*tensors, sign=sign_of(shape), **options, counts=forward)
    block.pooled_backward(extreme, sums, position, *tensors, image_gradient=False, **options, counts=backward)
    for counts in (forward, backward):
        assert counts.shared_load_wavefronts <= 1.1 * counts.shared_load_ideal
        assert counts.shared_store_wavefronts <= 1.1 * counts.shared_store_ideal
    heads_of_blocks = 4 * 2 * 56
    assert forward.multiply16 == 4 * heads_of_blocks
    assert backward.multiply16 == 7 * heads_of_blocks


def test_results_are_the_same_bits_every_time():
    shape = STEMS["resnet"]
    options, tensors = block_options(shape, "both"), inputs(shape, dtype=torch.bfloat16)
    runs = []
    for _ in range(2):
        extreme, position, sums = block.pooled(*tensors, sign=sign_of(shape), **options)
        grads = block.pooled_backward(extreme, sums, position, *tensors, image_gradient=False, **options)
        runs.append([extreme, position, sums, *(g for g in grads if g is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


# ------------------------------------------------------------------------------------------------- NaN, and infinities


def spoil(tensors, grads, name):
    spoilt = {**dict(zip(BLOCK_NAMES, tensors, strict=True)), **grads}[name]
    spoilt[(0,) * (spoilt.dim() - 1) + (1,)] = NAN


@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("terms", ["both", "relative"])
@pytest.mark.parametrize("name", [*BLOCK_NAMES, "grad_output"])
def test_nan_propagates_as_in_the_reference(name, terms, values):
    shape = (1, 2, 2, 4, 2, 5, 10, 4)  # partial blocks too: queries beyond the image have no effect
    tensors, grad_output = inputs(shape, terms, values), block_grad_output(shape, torch.float64)
    if dict(zip(BLOCK_NAMES, tensors, strict=True)).get(name, grad_output) is None:
        return
    spoil(tensors, {"grad_output": grad_output}, name)
    options = block_options(shape, terms)
    want = output_and_gradients(comparison.block, tensors, grad_output, **options, backend="reference")
    got = [block.forward(*tensors, **options)[0], *block.backward(grad_output, *tensors, **options)]
    for label, one, expected in zip(("output", *BLOCK_NAMES), got, want, strict=True):
        assert (one is None) == (expected is None), label
        if one is not None:
            assert torch.equal(one.isnan(), expected.isnan()), f"{label} with NaN in {name}"
            assert_close(one[expected.isfinite()], expected[expected.isfinite()], name=label)


@pytest.mark.parametrize("name", ["image", "w_query", "w_key", "w_value", "rel_row", "rel_col", "grad_extreme"])
def test_nan_on_tensor_cores(name):
    shape = STEMS["resnet"]
    options, sign = block_options(shape, "both"), sign_of(shape)
    tensors = inputs(shape, dtype=torch.float16)
    leaves = double(tensors)
    grad_extreme = normal(2, 64, 4, 6, seed=5, dtype=torch.float16)
    for some in (tensors, leaves):
        spoil(some, {"grad_extreme": grad_extreme}, name)
    leaves = [None if t is None else t.requires_grad_() for t in leaves]
    y = full_map(leaves, options)
    extreme, position, sums = block.pooled(*tensors, sign=sign, **options)
    assert torch.equal(extreme.isnan(), best(y, sign, 4).isnan())
    assert torch.equal(sums.isnan(), torch.stack([y.sum((0, 2, 3))] * 2).isnan())
    chosen = at_positions(y, position, 4)
    assert torch.equal(chosen.isnan(), extreme.isnan())
    sums_of_y = torch.stack([y.sum((0, 2, 3)), y.square().sum((0, 2, 3))])
    grad_sums = 0.1 * normal(2, 64, seed=6)
    ((chosen * grad_extreme.double()).sum() + (sums_of_y * grad_sums).sum()).backward()
    got = block.pooled_backward(grad_extreme, grad_sums, position, *tensors, image_gradient=False, **options)
    for label, one, leaf in list(zip(BLOCK_NAMES, got, leaves, strict=True))[1:]:
        if one is not None:
            assert torch.equal(one.isnan(), leaf.grad.isnan()), f"gradient of {label} with NaN in {name}"


def test_infinite_extremes_on_tensor_cores():
    shape = STEMS["resnet"]
    tensors, sign = inputs(shape, dtype=torch.bfloat16), sign_of(shape)
    tensors[3][:, :16] *= 1e30  # of one head: outputs of float32 that bfloat16 holds, and squares that it does not
    extreme, _, sums = block.pooled(*tensors, sign=sign, **block_options(shape, "both"))
    y = full_map(double(tensors), block_options(shape, "both"))
    assert relative_error(extreme[:, :16], best(y, sign, 4)[:, :16]) < TOLERANCE[torch.bfloat16]
    assert sums[1, :16].isinf().all()
    assert sums[:, 16:].isfinite().all()


# --------------------------------------------------------------------------------------------------------------- plans


def forward_call(tensors, shape, pooled=True):
    made = block.BlockInputs.of(*tensors, **block_options(shape, "both"))
    call = made.call(BlockForward)
    if pooled:
        call.extreme = Map.of(made.image)
    else:
        call.output = Map.of(made.image)
    return made, call


@pytest.mark.parametrize(("shape", "dtype", "pooled", "kernel"), [
    (STEMS["resnet"], torch.bfloat16, True, "sasa_block_tensor_forward"),
    (STEMS["resnet"], torch.bfloat16, False, "sasa_block_forward"),
    (STEMS["resnet"], torch.float32, True, "sasa_block_forward"),
    (COMMON, torch.bfloat16, True, "sasa_block_forward"),
])  # fmt: skip
def test_tensor_cores_serve_the_pooled_stem(shape, dtype, pooled, kernel):
    _made, call = forward_call(inputs(shape, dtype=dtype), shape, pooled)
    assert plan("block_forward", call, BlockPlan).attend.kernel.decode() == kernel


def test_the_images_gradient_is_computed_without_tensor_cores():
    tensors = inputs(STEMS["resnet"], dtype=torch.bfloat16)
    made = block.BlockInputs.of(*tensors, **block_options(STEMS["resnet"], "both"))
    call = made.call(BlockBackward)
    assert plan("block_backward", call, BlockPlan).attend.kernel == b"sasa_block_tensor_backward"
    call.grad_image = Map.of(made.image)
    assert plan("block_backward", call, BlockPlan).attend.kernel == b"sasa_block_backward"


def test_calls_that_do_not_fit_are_refused():
    shape = (1, 1, 1, 2, 2, 17, 17, 17)
    with pytest.raises(ValueError, match="a block has more than 16 x 16 pixels"):
        plan("block_forward", forward_call(inputs(shape), shape)[1], BlockPlan)
    shape = (1, 40, 1, 2, 8, 8, 8, 8)
    _made, call = forward_call(inputs(shape), shape)
    with pytest.raises(ValueError, match="more shared memory than this GPU has"):
        plan("block_forward", call, BlockPlan, limit=48 * 1024)
