"""FLOPs that torch's FlopCounterMode counts for the ops, compared with counts by hand and of the reference."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import sasa
from helpers import WITHOUT_KERNELS, block_inputs, local_inputs

pytestmark = WITHOUT_KERNELS  # only shapes are read
B, N, D, E, H, W, K = 2, 3, 4, 6, 5, 7, 3
PIXELS, QUERY, VALUE = B * H * W, N * D, N * E  # channels of all heads


def flops(fn, tensors, **options) -> tuple[int, int]:
    """Counted in the forward pass, and in the backward pass to every tensor."""
    leaves = [None if t is None else t.requires_grad_() for t in tensors]
    with FlopCounterMode(display=False) as forward:
        output = fn(*leaves, **options)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_local_attention_by_hand(terms, padding):
    content = 2 * PIXELS * K * K * QUERY * (terms != "relative")
    relative = 2 * PIXELS * (K * QUERY // 2 + K * QUERY // 2) * (terms != "content")  # K rows and K columns
    value = 2 * PIXELS * K * K * VALUE
    got = flops(
        sasa.ops.local_attention,
        local_inputs(B, N, D, E, H, W, K, terms=terms),
        kernel_size=K, num_heads=N, padding=padding, content=terms != "relative",
    )  # fmt: skip
    assert got == (content + relative + value, 3 * content + 3 * relative + 2 * value)


@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_local_attention_counts_the_products_of_the_reference(terms):
    options = {"kernel_size": K, "num_heads": N, "content": terms != "relative"}
    forward, backward = flops(sasa.ops.local_attention, local_inputs(B, N, D, E, H, W, K, terms=terms), **options)
    want_forward, want_backward = flops(
        sasa.ops.local_attention, local_inputs(B, N, D, E, H, W, K, terms=terms), **options, backend="reference"
    )
    assert forward == want_forward
    logits = forward - 2 * PIXELS * K * K * VALUE  # the reference stores them, the op recomputes them
    assert backward == want_backward + logits


@pytest.mark.parametrize("image_gradient", [True, False])
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_block_attention_by_hand(terms, values, image_gradient):
    channels, side = 3, 2
    image, *weights = block_inputs(B, channels, N, D, E, H, W, side, terms=terms, values=values)
    content, relative = terms != "relative", terms != "content"
    projections = 2 * PIXELS * channels * (QUERY + content * QUERY + (values == "weights") * VALUE)
    logits = 2 * PIXELS * (content * side**2 * QUERY + relative * side * QUERY)
    mixed = 2 * PIXELS * side**2 * VALUE

    def call(*weights):
        *matrices, value = weights
        pixels = image.requires_grad_(image_gradient)
        return sasa.ops.block_attention(pixels, *matrices, value=value, block_size=side, num_heads=N, content=content)

    forward, backward = flops(call, weights)
    assert forward == projections + logits + mixed
    assert backward == (2 + image_gradient) * projections + 3 * logits + 2 * mixed


def test_formulas_count_shapes_on_the_meta_device():
    query = torch.empty(1, 64, 4096, 4096, device="meta")
    with FlopCounterMode(display=False) as mode:
        sasa.ops.local_attention(query, query, query, kernel_size=7, num_heads=8)
    assert mode.get_total_flops() == 2 * 4096**2 * 2 * 49 * 64
