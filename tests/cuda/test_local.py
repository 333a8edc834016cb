"""Local attention on tensor cores, emulated, beside the float64 reference: output and every gradient."""

from itertools import product

import pytest
import torch

from cuda import emulator
from cuda.emulator import Counts
from cuda.local_calls import Options, backward, forward
from helpers import TOLERANCE, relative_error
from sasa.ops.arguments import LocalInputs, LocalOptions
from sasa.ops.reference import local_attention

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="no C++ compiler here (looked for g++ and clang++)")

BF16, FP16 = torch.bfloat16, torch.float16
NAMES = ("query", "key", "value", "rel_row", "rel_col")


def inputs(options: Options, batch: int, height: int, width: int, dtype: torch.dtype, seed: int = 0):
    """query, key and value as slices of one channels_last map, the tables in float32, and the output's gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return 0.7 * torch.randn(shape, generator=generator)

    channels = options.heads * options.head_dim
    last = torch.channels_last
    query, key, value = normal(batch, 3 * channels, height, width).to(dtype, memory_format=last).chunk(3, 1)
    tables = [normal(options.heads, options.window, options.head_dim // 2) if options.position else None] * 2
    if options.position:
        tables[1] = normal(options.heads, options.window, options.head_dim // 2)
    grad = normal(batch, channels, height, width).to(dtype, memory_format=last)
    return [query, key if options.content else None, value, *tables], grad


def expected(tensors, grad, options: Options):
    """Output, log-sum-exp and gradients (None where there is no input) in float64."""
    wide = [None if t is None else t.double().requires_grad_() for t in tensors]
    size = LocalOptions(options.window, options.heads, options.padding, options.scale)
    output, logsumexp = local_attention(LocalInputs(*wide), size)
    grads = iter(torch.autograd.grad(output, [t for t in wide if t is not None], grad.double()))
    return output, logsumexp.detach(), [None if t is None else next(grads) for t in wide]


def computed(tensors, grad, options: Options, **limit):
    output, logsumexp = forward(*tensors, options, **limit)
    return output, logsumexp, backward(grad, *tensors, logsumexp, options, **limit)


def check(options: Options, batch: int, height: int, width: int, dtype: torch.dtype, **limit) -> None:
    tensors, grad = inputs(options, batch, height, width, dtype)
    want_output, want_logsumexp, want_grads = expected(tensors, grad, options)
    output, logsumexp, grads = computed(tensors, grad, options, **limit)
    assert output.dtype == dtype
    assert relative_error(output, want_output) <= TOLERANCE[dtype]
    assert relative_error(logsumexp, want_logsumexp) <= TOLERANCE[dtype] / 10  # of sums of rounded weights
    for name, got, want in zip(NAMES, grads, want_grads, strict=True):
        if want is None:
            assert got is None
        else:
            assert relative_error(got, want) <= TOLERANCE[dtype], f"gradient of {name}"


@pytest.mark.parametrize(("window", "head_dim", "dtype"), [
    (3, 8, BF16), (3, 32, FP16), (5, 16, BF16), (5, 64, FP16), (7, 8, FP16), (7, 8, BF16), (7, 16, FP16),
    (7, 32, BF16), (7, 64, BF16), (7, 128, FP16), (9, 8, BF16), (9, 32, FP16), (11, 16, BF16), (11, 64, FP16),
])  # fmt: skip
def test_windows_and_heads(window, head_dim, dtype):
    check(Options(window, 2, head_dim), 1, 9, 11, dtype)


# Tiles are 8 x 8 or 8 x 16 pixels: maps below, at and above these sizes, primes, one pixel, one row, one column.
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 19), (17, 1), (2, 3), (7, 7), (8, 8), (13, 16), (17, 23)])
@pytest.mark.parametrize(("window", "padding"), [(7, "zeros"), (5, "mask")])
def test_map_sizes(height, width, window, padding):
    check(Options(window, 2, 8, padding), 2, height, width, BF16)


@pytest.mark.parametrize(("padding", "content", "position"), [
    ("mask", True, True), ("zeros", False, True), ("zeros", True, False), ("mask", False, True), ("mask", True, False),
])  # fmt: skip
@pytest.mark.parametrize("window", [7, 3])
def test_options(window, padding, content, position):
    check(Options(window, 2, 16, padding, content=content, position=position), 1, 6, 10, BF16)


@pytest.mark.parametrize("scale", [0.25, -0.5])
def test_scale(scale):
    check(Options(7, 2, 16, scale=scale), 1, 6, 10, BF16)


@pytest.mark.parametrize(("pool", "gain", "relu"), [(1, True, True), (2, False, False), (2, True, True)])
@pytest.mark.parametrize("window", [7, 5])
def test_operations_fused_for_inference(window, pool, gain, relu):
    options = Options(window, 2, 16)
    tensors, _ = inputs(options, 2, 9, 13, BF16)
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(32, generator=generator) for _ in range(2)] if gain else [None, None]
    want, _, _ = expected(tensors, tensors[0], options)
    want = torch.nn.functional.avg_pool2d(want, pool, ceil_mode=True, count_include_pad=False)
    if gain:
        want = want * factors[0].double()[:, None, None] + factors[1].double()[:, None, None]
    output, _ = forward(*tensors, options, pool=pool, gain=factors[0], shift=factors[1], relu=relu)
    assert relative_error(output, want.relu() if relu else want) <= TOLERANCE[BF16]


def test_pixels_beyond_a_masked_map_do_not_repeat_a_unit():
    """They may see no key at all, and nothing that is not finite comes from there."""
    shuffles = []
    for padding in ("zeros", "mask"):
        tensors, _ = inputs(Options(), 1, 12, 8, BF16)
        counts = Counts()
        forward(*tensors, Options(padding=padding), counts=counts)
        shuffles.append(counts.shuffles)
    assert shuffles[0] == shuffles[1]


def test_an_odd_number_of_heads():
    check(Options(7, 3, 8), 1, 6, 10, BF16)


def test_a_gpu_with_less_shared_memory():
    check(Options(7, 1, 128), 1, 9, 5, FP16, limit=99 * 1024)


@pytest.mark.parametrize(("window", "head_dim", "blocks"), [(7, 8, 4), (3, 16, 1), (7, 32, 6)])
def test_several_tiles_of_a_block(window, head_dim, blocks):
    """Blocks take tiles one after the other while the next one is copied; each image's tables in parts or not."""
    check(Options(window, 2, head_dim), 2, 17, 27, FP16, blocks=blocks)


def test_the_same_bits_every_time():
    options = Options(7, 2, 8)
    tensors, grad = inputs(options, 1, 9, 11, BF16)
    first, second = computed(tensors, grad, options), computed(tensors, grad, options)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))


def test_strides_of_slices_and_of_batches():
    """Gradients go into slices of a map inside a larger one, and nothing beside them is written."""
    options = Options(7, 2, 16)
    tensors, grad = inputs(options, 2, 6, 10, BF16)
    room = torch.full((2, 8, 12, 3 * 32 + 16), 7.0, dtype=BF16)[:, 1:7, 1:11, :96].permute(0, 3, 1, 2)
    guard = room._base.clone()
    output, logsumexp = forward(*tensors, options)
    packed = room.copy_(torch.full_like(room, float("nan"))).chunk(3, 1)
    backward(grad, *tensors, logsumexp, options, grads=list(packed))
    for got, want in zip(packed, backward(grad, *tensors, logsumexp, options)[:3], strict=True):
        assert torch.equal(got, want)
    room.fill_(7.0)
    assert torch.equal(room._base, guard), "something beside the gradients was written"
    assert torch.equal(output, forward(*tensors, options)[0])


BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize(("which", "value"), list(product((*NAMES, "grad"), BAD)))
@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_nan_and_infinity_propagate_as_in_the_reference(which, value, padding):
    options = Options(7, 1, 16, padding)
    tensors, grad = inputs(options, 1, 9, 17, BF16)
    spoiled = grad if which == "grad" else tensors[NAMES.index(which)]
    spoiled[tuple(2 * size // 5 if size > 2 else 0 for size in spoiled.shape)] = value
    want_output, _, want_grads = expected(tensors, grad, options)
    output, _, grads = computed(tensors, grad, options)
    for name, got, want in zip(("output", *NAMES), (output, *grads), (want_output, *want_grads), strict=True):
        assert torch.equal(got.isfinite(), want.isfinite()), name


def test_a_window_above_7_with_nan():
    options = Options(9, 1, 16)
    tensors, grad = inputs(options, 1, 9, 14, BF16)
    tensors[2][0, 3, 2, 4] = float("nan")
    want_output, _, want_grads = expected(tensors, grad, options)
    output, _, grads = computed(tensors, grad, options)
    for name, got, want in zip(("output", *NAMES), (output, *grads), (want_output, *want_grads), strict=True):
        assert torch.equal(got.isfinite(), want.isfinite()), name


@pytest.mark.parametrize(("changes", "sentence"), [
  ({"window": 13}, "windows of 3 to 11"), ({"head_dim": 24}, "heads of 8, 16, 32, 64 or 128"),
    ({"window": 9, "head_dim": 128}, "do not fit in registers"),
])  # fmt: skip
def test_the_plan_refuses_shapes(changes, sentence):
    options = Options(**{"window": 7, "heads": 2, "head_dim": 16, **changes})
    tensors, _ = inputs(options, 1, 4, 4, BF16)
    with pytest.raises(ValueError, match=sentence):
        forward(*tensors, options)


def test_the_plan_refuses_float32_and_other_layouts():
    options = Options(7, 2, 16)
    tensors, grad = inputs(options, 1, 4, 4, torch.float32)
    with pytest.raises(ValueError, match="bfloat16 or float16"):
        forward(*tensors, options)
    tensors, grad = inputs(options, 1, 4, 4, BF16)
    planes = [t.contiguous() if t.dim() == 4 else t for t in tensors]
    with pytest.raises(ValueError, match="channels_last"):
        forward(*planes, options)
    with pytest.raises(ValueError, match="channels_last"):
        backward(grad.contiguous(), *tensors, torch.zeros(1, 2, 4, 4), options)
    with pytest.raises(ValueError, match="more shared memory"):
        forward(*tensors, options, limit=1024)


def test_the_plan_refuses_addresses_that_are_not_aligned():
    """Also of pixels beyond a map of one row: an axis of one may have any stride."""
    options = Options(7, 2, 16)
    tensors, _ = inputs(options, 1, 1, 4, BF16)
    odd = [t if t.dim() == 3 else t.as_strided(t.shape, (384, 1, 1, 96)) for t in tensors]
    with pytest.raises(ValueError, match="channels_last"):
        forward(*odd, options)
    gain = torch.ones(33)[1:]
    with pytest.raises(ValueError, match="gain and shift in whole 8 bytes"):
        forward(*tensors, options, gain=gain, shift=gain)
