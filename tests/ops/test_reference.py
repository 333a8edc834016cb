"""The reference compared with loops: Eq. 3 and Eq. 7-9 pixel by pixel, written without the library."""

import pytest
import torch

from helpers import (
    WITHOUT_KERNELS,
    assert_close,
    block_inputs,
    double,
    local_inputs,
    loop_block_attention,
    loop_local_attention,
    normal,
)
from sasa.ops import reference
from sasa.ops.arguments import BlockInputs, BlockOptions, LocalInputs, LocalOptions

pytestmark = WITHOUT_KERNELS
LOCAL_SHAPES = [  # batch, heads, head_dim, value_dim, height, width, kernel_size
    (2, 2, 4, 4, 5, 4, 3),
    (1, 3, 2, 2, 7, 6, 5),
    (1, 2, 2, 5, 4, 3, 3),  # values wider than queries
    (1, 2, 6, 1, 4, 3, 3),  # and narrower
    (1, 1, 2, 2, 2, 3, 7),  # smaller than the window
    (1, 2, 2, 2, 1, 5, 3),
    (2, 2, 2, 2, 5, 1, 5),
    (1, 2, 4, 2, 1, 1, 3),
    (1, 2, 4, 2, 3, 2, 1),
]


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("shape", LOCAL_SHAPES, ids=str)
def test_local_attention_is_the_loop(shape, terms, padding, scale):
    tensors = local_inputs(*shape, terms=terms)
    options = {"kernel_size": shape[-1], "num_heads": shape[1], "padding": padding, "scale": scale}
    output, logsumexp = reference.local_attention(LocalInputs(*tensors), LocalOptions(**options))
    want_output, want_logsumexp = loop_local_attention(*tensors, **options)
    assert_close(output, want_output, 1e-13, name="output")
    assert_close(logsumexp, want_logsumexp, 1e-13, name="logsumexp")


def test_local_attention_with_an_odd_head_dim_and_no_relative_positions():
    tensors = local_inputs(1, 2, 3, 3, 4, 5, 3, terms="content")
    options = {"kernel_size": 3, "num_heads": 2, "padding": "zeros", "scale": 1.0}
    assert_close(
        reference.local_attention(LocalInputs(*tensors), LocalOptions(**options))[0],
        loop_local_attention(*tensors, **options)[0],
        1e-13,
    )


@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_attention_weights_average_the_values_into_the_output(padding):
    shape = (2, 2, 4, 3, 5, 4, 3)
    query, key, value, rel_row, rel_col = local_inputs(*shape)
    options = {"kernel_size": 3, "num_heads": 2, "padding": padding, "scale": 1.0}
    weights = reference.attention_weights(query, key, rel_row, rel_col, LocalOptions(**options))
    want = loop_local_attention(query, key, value, rel_row, rel_col, **options)[0]
    got = torch.zeros_like(want).unflatten(1, (2, 3))
    for u in range(3):
        for v in range(3):
            for i in range(5):
                for j in range(4):
                    if 0 <= i + u - 1 < 5 and 0 <= j + v - 1 < 4:
                        seen = value.unflatten(1, (2, 3))[..., i + u - 1, j + v - 1]
                        got[..., i, j] += weights[:, :, u, v, i, j, None] * seen
    assert_close(got.flatten(1, 2), want, 1e-13)


BLOCK_SHAPES = [  # batch, channels, heads, head_dim, value_dim, height, width, block_size
    (2, 3, 2, 2, 2, 4, 4, 2),
    (1, 3, 2, 2, 3, 8, 4, 4),
    (1, 2, 1, 4, 2, 5, 7, 4),  # partial blocks on both sides
    (1, 3, 2, 2, 1, 3, 6, 3),
    (1, 3, 2, 2, 2, 1, 5, 4),
    (1, 3, 2, 2, 2, 2, 1, 4),  # an image smaller than the block
    (1, 3, 2, 2, 2, 3, 2, 1),
]


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("shape", BLOCK_SHAPES, ids=str)
def test_block_attention_is_the_loop(shape, terms, values, scale):
    tensors = block_inputs(*shape, terms=terms, values=values)
    options = {"block_size": shape[-1], "num_heads": shape[2], "scale": scale}
    output, logsumexp = reference.block_attention(BlockInputs(*tensors), BlockOptions(**options))
    want_output, want_logsumexp = loop_block_attention(*tensors, **options)
    assert_close(output, want_output, 1e-13, name="output")
    assert_close(logsumexp, want_logsumexp, 1e-13, name="logsumexp")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once_at_the_end(dtype):
    """Arithmetic is float32: the result is the exact one of the rounded inputs, rounded once."""
    tensors = local_inputs(1, 2, 8, 8, 6, 6, 5, dtype=dtype)
    options = {"kernel_size": 5, "num_heads": 2, "padding": "zeros", "scale": 1.0}
    output, logsumexp = reference.local_attention(LocalInputs(*tensors), LocalOptions(**options))
    exact = reference.local_attention(LocalInputs(*double(tensors)), LocalOptions(**options))[0]
    assert output.dtype == dtype
    assert logsumexp.dtype == torch.float32
    # Two results of one rounding can differ by one unit, where float32's own error crosses a tie.
    assert (output != exact.to(dtype)).double().mean() < 1e-2


def test_blocks_there_and_back():
    image = normal(2, 3, 5, 7)
    blocks = reference.to_blocks(image, 4)
    assert blocks.shape == (2, 2, 2, 16, 3)
    assert torch.equal(blocks[1, 1, 0, 2], image[1, :, 4, 2])  # block (1, 0), row 0, column 2
    assert not blocks[:, 1, :, 4:].any()  # rows beyond the image
    assert torch.equal(reference.from_blocks(blocks, 5, 7, 4), image)
