"""The CUDA kernels on a GPU beside the float64 reference: tensor cores and plain, output and every gradient."""

import pytest
import torch

from gpu.calls import NAMES, Call, Options, assert_all_close
from helpers import normal
from sasa.ops.arguments import BlockInputs, BlockOptions, Epilogue, QkvInputs, QkvOptions
from sasa.ops.block_pooled import block_attention_pooled
from sasa.ops.qkv_attention import qkv_attention_inference

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
DTYPES = pytest.mark.parametrize("dtype", [BF16, FP16, FP32, FP64], ids=["bf16", "fp16", "fp32", "fp64"])


@pytest.mark.parametrize("head_dim", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("window", [3, 5, 7, 9, 11])
def test_windows_and_heads_on_tensor_cores(window, dtype, head_dim):
    Call.make(2, head_dim, 19, 21, Options(window), dtype).check()


# Tiles have 8 x 8, 8 x 16 or 4 x 16 pixels: sizes below, at and above, primes, one row, one column, one pixel.
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 23), (29, 1), (2, 3), (7, 7), (8, 8), (16, 16), (17, 31), (56, 57)], ids=str
)
@pytest.mark.parametrize(("window", "padding"), [(7, "zeros"), (7, "mask"), (5, "mask")])
def test_map_sizes(size, window, padding):
    Call.make(3, 8, *size, Options(window, padding=padding), BF16).check()


@DTYPES
@pytest.mark.parametrize(("content", "position"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_options(padding, content, position, dtype):
    options = Options(7, 3, padding, scale=0.5, content=content)
    Call.make(2, 16, 13, 10, options, dtype, position=position).check()


@DTYPES
@pytest.mark.parametrize("window", [1, 7, 13])
def test_contiguous_maps_take_the_plain_kernels(window, dtype):
    Call.make(2, 12, 9, 14, Options(window, 2), dtype, memory_format=torch.contiguous_format).check()


def test_many_images_and_tiles_of_a_block():
    """More tiles than blocks: each block does several, and copies ahead."""
    Call.make(24, 8, 40, 44, Options(7, 8), BF16).check()


@pytest.mark.usefixtures("nan_memory")
@pytest.mark.parametrize("size", [(7, 7), (13, 18)], ids=str)
@pytest.mark.parametrize("window", [3, 7])
@DTYPES
def test_every_element_is_written(dtype, window, size):
    Call.make(2, 16, *size, Options(window), dtype).check()


@DTYPES
def test_memory_around_a_map_is_not_read(dtype):
    """q, k and v in the middle of a larger map of NaN: reads beyond them are detected."""
    call = Call.make(2, 16, 11, 13, Options(7), dtype)
    wide = torch.full((3, 4 * 32, 15, 16), float("nan"), dtype=dtype).to(memory_format=torch.channels_last)
    wide[:2, :96, 2:13, 1:14] = call.qkv
    inside = wide.to("cuda")[:2, :96, 2:13, 1:14]
    inputs = [t.detach().requires_grad_() for t in (*inside.chunk(3, 1), *(t.to("cuda") for t in call.tables))]
    output = torch.ops.sasa_cuda.local_attention(*[t.detach() for t in inputs], 7, 2, "zeros", 1.0)[0]
    assert_all_close([output], call.results("cpu", "reference", FP64)[:1], dtype, NAMES[:1])


@pytest.mark.parametrize("head_dim", [16, 128])
def test_repeated_calls_give_the_same_bits(head_dim):
    call = Call.make(8, head_dim, 28, 28, Options(7, 4), BF16)
    first = [t.cpu() for t in call.results("cuda", "cuda")]
    for _ in range(9):
        assert all(torch.equal(a, b.cpu()) for a, b in zip(first, call.results("cuda", "cuda"), strict=True))


@pytest.mark.parametrize("place", ["query", "key", "value"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nonfinite_values_stay_in_their_windows(place, number):
    call = Call.make(1, 16, 20, 20, Options(7), BF16)
    call.qkv[0, {"query": 0, "key": 32, "value": 64}[place], 10, 10] = number
    got = call.results("cuda", "cuda")[0].cpu()
    want = call.results("cpu", "reference", FP64)[0]
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got[want.isfinite()].isfinite(), torch.ones_like(want[want.isfinite()], dtype=torch.bool))


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("pool", [1, 2])
@DTYPES
def test_operations_fused_for_inference(dtype, pool):
    call = Call.make(2, 16, 13, 18, Options(7), dtype)
    wide = torch.promote_types(dtype, FP32)
    factors = [normal(32, seed=seed, dtype=wide) for seed in (4, 5)]
    options = QkvOptions(7, 2, content=True, padding="zeros", scale=1.0)
    results = []
    for device, to in (("cuda", None), ("cpu", FP64)):
        inputs = QkvInputs(*(t.to(device, to or t.dtype) for t in (call.qkv, *call.tables)))
        epilogue = Epilogue(*(t.to(device, to or t.dtype) for t in factors), relu=True, pool=pool)
        results.append(qkv_attention_inference(inputs, epilogue, options))
    assert_all_close(results[:1], results[1:], dtype, ("output",))


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("size", [(32, 32), (30, 45), (5, 3), (64, 260)], ids=str)
@DTYPES
def test_the_stem_with_its_pooling(dtype, size):
    """Extremes, sums and the gradients of the weights; 64 channels, 4 heads, blocks of 4 x 4, as in ResNet-50."""
    image = normal(2, 3, *size, dtype=dtype).to(memory_format=torch.channels_last)
    wide = torch.promote_types(dtype, FP32)
    shapes = [(64, 3), (64, 3), (16, 64, 3), (4, 7, 8), (4, 7, 8)]
    weights = [normal(*shape, seed=n, dtype=wide) for n, shape in enumerate(shapes, 1)]
    sign = torch.tensor([1.0, -1.0]).repeat(32)
    found = []
    for device, to in (("cuda", None), ("cpu", FP64)):
        leaves = [w.to(device, to or w.dtype).requires_grad_() for w in weights]
        inputs = BlockInputs(image.to(device, to or dtype), *leaves, value=None)
        results = block_attention_pooled(inputs, sign.to(device), BlockOptions(4, 4, 1.0))
        grads = [normal(*r.shape, seed=9).to(r.dtype).to(device) for r in results]
        found.append([*results, *torch.autograd.grad(results, leaves, grads)])
    names = ("extreme", "sums", "w_query", "w_key", "w_value", "rel_row", "rel_col")
    assert_all_close(*found, dtype, names, tolerance={BF16: 3e-2, FP16: 1e-2, FP32: 1e-4, FP64: 1e-9}[dtype])
