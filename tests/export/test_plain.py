"""The operators as plain tensor operations give what the operators give: numbers, shapes, dtypes and strides."""

import pytest
import torch

from helpers import WITHOUT_KERNELS, assert_close, block_inputs, local_inputs, normal
from sasa.export import tiles
from sasa.export.decompositions import DECOMPOSITIONS
from sasa.ops import reference
from sasa.ops.arguments import BlockInputs, BlockOptions, LocalInputs, LocalOptions

OPS = torch.ops.sasa
LOCAL = [(5, 7, 3), (1, 9, 7), (13, 17, 7), (7, 14, 7), (9, 8, 11), (4, 3, 1), (3, 2, 19)]


@WITHOUT_KERNELS
@pytest.mark.parametrize(("height", "width", "kernel_size"), LOCAL)
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_local_attention(height, width, kernel_size, terms, padding):
    inputs = LocalInputs(*local_inputs(2, 3, 4, 5, height, width, kernel_size, terms=terms))
    options = LocalOptions(kernel_size, 3, padding, 0.5)
    want = reference.local_attention(inputs, options)
    got = DECOMPOSITIONS[OPS.local_attention.default](*inputs, *options)
    for name, a, b in zip(("output", "logsumexp"), got, want, strict=True):
        assert_close(a, b, name=name)


@pytest.mark.parametrize("logits", [1, 2000])
def test_heads_in_groups(monkeypatch, logits):
    """Of three heads, one at a time, and two and one."""
    monkeypatch.setattr(tiles, "CACHED_LOGITS", logits)
    inputs, options = LocalInputs(*local_inputs(2, 3, 4, 5, 5, 7, 3)), LocalOptions(3, 3, "mask", 0.5)
    for a, b in zip(tiles.local_attention(inputs, options), reference.local_attention(inputs, options), strict=True):
        assert_close(a, b)


@WITHOUT_KERNELS
@pytest.mark.parametrize(("height", "width", "block_size"), [(8, 12, 4), (7, 5, 4), (3, 2, 4), (6, 6, 1), (10, 9, 3)])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("values", ["weights", "map"])
def test_block_attention(height, width, block_size, terms, values):
    inputs = BlockInputs(*block_inputs(2, 3, 2, 4, 5, height, width, block_size, terms=terms, values=values))
    options = BlockOptions(block_size, 2, 0.5)
    want = reference.block_attention(inputs, options)
    got = DECOMPOSITIONS[OPS.block_attention.default](*inputs, *options)
    for name, a, b in zip(("output", "logsumexp"), got, want, strict=True):
        assert_close(a, b, name=name)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 5)])
def test_block_attention_with_pooling(height, width):
    inputs = BlockInputs(*block_inputs(2, 3, 2, 4, 4, height, width, 4))
    sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    want = OPS.block_attention_pooled(*inputs, sign, 4, 2, 1.0)
    got = DECOMPOSITIONS[OPS.block_attention_pooled.default](*inputs, sign, 4, 2, 1.0)
    assert_close(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert_close(got[2], want[2])


CALLS = {
    "qkv_attention": (3, 2, True, "zeros", 1.0),
    "qkv_attention_inference": (None, normal(8), True, 2, 3, 2, True, "mask", 1.0),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_results_are_laid_out_as_the_ops(name, channels_last):
    """Tracing takes shapes and strides from the decomposition: they must be those of the op."""
    qkv = normal(2, 24, 5, 6)
    qkv = qkv.contiguous(memory_format=torch.channels_last) if channels_last else qkv
    arguments = (qkv, normal(2, 3, 2), normal(2, 3, 2, seed=1), *CALLS[name])
    op = getattr(OPS, name).default
    want, got = op(*arguments), DECOMPOSITIONS[op](*arguments)
    if isinstance(want, torch.Tensor):
        want, got = [want], [got]
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
        assert_close(a, b)


def test_every_operator_of_inference_has_one():
    """A new operator without a gradient of its own cannot be forgotten here."""
    names = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("sasa::")}
    forward = {name for name in names if "backward" not in name and not name.startswith(("cpu_", "cuda_"))}
    ours = {op.name().partition("::")[2].partition(".")[0] for op in DECOMPOSITIONS}
    assert forward - ours == {"affine_", "norm_relu", "pointwise_gradient"}, "these are not called in an export"
