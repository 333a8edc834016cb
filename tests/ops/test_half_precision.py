"""Conversion of every float16 and bfloat16 number to float32 and back in the CPU kernels, rounded once."""

import pytest
import torch

from helpers import NEEDS_KERNELS, normal
from operators import qkv_attention, qkv_attention_inference

pytestmark = NEEDS_KERNELS
# With a window of one pixel attention returns the value.
OPTIONS = {"kernel_size": 1, "num_heads": 1, "padding": "zeros", "scale": 1.0, "content": True}
FORMATS = [torch.contiguous_format, torch.channels_last]


def every_number(dtype, channels, width):
    """All 65536 numbers as a map."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    return bits.view(dtype).reshape(1, channels, -1, width)


def qkv_of(value, memory_format):
    """Zero queries and keys, and the values, in one map."""
    zeros = torch.zeros_like(value)
    return torch.cat([zeros, zeros, value], 1).contiguous(memory_format=memory_format)


def exactly(got, want):
    """Whether all numbers are equal, NaN included. The sign of zero may differ: a sum that starts at 0 loses it."""
    return bool(((got == want) | (got.isnan() & want.isnan())).all())


@pytest.mark.parametrize("memory_format", FORMATS, ids=["first", "last"])
@pytest.mark.parametrize(("channels", "width"), [(8, 128), (64, 16), (1, 1024)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_number_comes_back_as_it_was(dtype, channels, width, memory_format):
    value = every_number(dtype, channels, width)
    assert exactly(qkv_attention(qkv_of(value, memory_format), **OPTIONS), value)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["first", "last"])
@pytest.mark.parametrize(("channels", "width"), [(8, 128), (64, 16), (1, 1024)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_product_is_rounded_as_torch_rounds_it(dtype, channels, width, memory_format):
    value = every_number(dtype, channels, width)
    gain = normal(channels, seed=1, dtype=torch.float32)
    gain[::2] *= 1e-2  # products that become subnormal; the others reach infinity
    gain[1::2] *= 1e2
    qkv = qkv_of(value, memory_format)
    got = qkv_attention_inference(qkv, None, None, gain, None, relu=False, pool=1, **OPTIONS)
    assert exactly(got, (value.float() * gain[:, None, None]).to(dtype))
