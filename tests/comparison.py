"""Helpers of the tests of agreement with the reference: its results in float64, layouts, and the comparison."""

from functools import cache

import pytest
import torch

from helpers import (
    IMPLEMENTATIONS,
    TOLERANCE,
    assert_close,
    block_inputs,
    double,
    local_inputs,
    normal,
    output_and_gradients,
)
from sasa.ops import block_attention, local_attention

DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
EVERYWHERE = pytest.mark.parametrize(("backend", "device"), IMPLEMENTATIONS)
# Newly allocated memory is filled with NaN, so that unwritten results are detected.
ALLOCATIONS_ARE_NAN = [
    pytest.mark.usefixtures("nan_memory"),
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation"),
]


def assert_agrees(got: list, want: list, dtype: torch.dtype, grad_output: torch.Tensor, names: tuple[str, ...]) -> None:
    """Assert that output and gradients agree within the tolerance of the dtype; None agrees with None."""
    size = grad_output.double().norm().item()
    for name, one, expected in zip(("output", *names), got, want, strict=True):
        assert (one is None) == (expected is None), name
        if one is not None:
            assert_close(one, expected, TOLERANCE[dtype], otherwise=size, name=name)


def assert_agrees_with_reference(operator, tensors: list, grad_output: torch.Tensor, backend: str, **options) -> list:
    """Compare output and gradients of `local_attention` or `block` with the reference in float64; return them.

    The tolerance is that of the gradient's dtype, or of float32 if float64 tensors are mixed with float32 ones.
    """
    got = output_and_gradients(operator, tensors, grad_output, **options, backend=backend)
    want = output_and_gradients(operator, double(tensors), grad_output.double(), **options, backend="reference")
    narrow = any(t is not None and t.dtype == torch.float32 for t in tensors) and grad_output.dtype == torch.float64
    names = LOCAL_NAMES if operator is local_attention else BLOCK_NAMES
    assert_agrees(got, want, torch.float32 if narrow else grad_output.dtype, grad_output, names)
    return got


def sliced(t: torch.Tensor) -> torch.Tensor:
    """The same numbers inside a larger map of NaN, so that reads beyond the map are detected."""
    batch, channels, height, width = t.shape
    larger = t.new_full((batch + 1, channels + 2, height + 2, width + 3), float("nan"))
    larger[:batch, 1:-1, 1:-1, 1:-2] = t
    return larger[:batch, 1:-1, 1:-1, 1:-2]


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "sliced": sliced,
    "channels_last_sliced": lambda t: (
        torch.cat([t, t.new_full(t.shape, float("nan"))], 1)
        .contiguous(memory_format=torch.channels_last)
        .chunk(2, dim=1)[0]
    ),
    "batch_last": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "expanded_batch": lambda t: t[:1].expand(t.shape),
    "expanded_width": lambda t: t[..., :1].expand(t.shape),
    "expanded_channels": lambda t: t[:, :1].expand(t.shape),
}


def laid_out(tensors: list, layout: str) -> list:
    """The tensors with their maps, those of four dimensions, in the named layout."""
    return [None if t is None else LAYOUTS[layout](t) if t.dim() == 4 else t for t in tensors]


# ------------------------------------------------------------------------------------------------ local_attention

LOCAL_NAMES = ("query", "key", "value", "rel_row", "rel_col")


def local_options(shape: tuple[int, ...], padding: str = "zeros", terms: str = "both", scale: float = 1.0) -> dict:
    return {
        "kernel_size": shape[-1],
        "num_heads": shape[1],
        "padding": padding,
        "content": terms != "relative",
        "scale": scale,
    }


def local_grad_output(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    batch, heads, _, value_dim, height, width, _ = shape
    return normal(batch, heads * value_dim, height, width, seed=99, dtype=dtype)


@cache
def local_reference(shape, padding, terms, dtype, scale=1.0):
    """The reference's output and gradients in float64, of inputs rounded to dtype."""
    tensors = double(local_inputs(*shape, terms=terms, dtype=dtype))
    grad = local_grad_output(shape, dtype).double()
    options = local_options(shape, padding, terms, scale)
    return output_and_gradients(local_attention, tensors, grad, **options, backend="reference")


def assert_local_agrees(tensors: list, shape: tuple, backend: str, *, terms="both", padding="zeros", scale=1.0) -> list:
    """Compare `local_attention` of `local_inputs(*shape, terms=terms)` with the reference; output and gradients."""
    dtype = tensors[0].dtype
    grad = local_grad_output(shape, dtype)
    options = local_options(shape, padding, terms, scale)
    got = output_and_gradients(local_attention, tensors, grad, **options, backend=backend)
    assert_agrees(got, local_reference(shape, padding, terms, dtype, scale), dtype, grad, LOCAL_NAMES)
    return got


# ------------------------------------------------------------------------------------------------ block_attention

# Whole and partial blocks, images one pixel high or wide, blocks larger than the image, blocks of one pixel.
BLOCK_SHAPES = [  # batch, channels, heads, head_dim, value_dim, height, width, block_size
    (2, 3, 2, 4, 4, 8, 12, 4),
    (1, 3, 4, 2, 3, 7, 11, 4),
    (2, 5, 1, 4, 2, 1, 9, 3),
    (2, 3, 3, 2, 5, 9, 1, 2),
    (3, 3, 2, 4, 2, 3, 2, 7),
    (1, 4, 2, 4, 4, 1, 1, 4),
    (2, 3, 2, 4, 4, 5, 3, 1),
]
BLOCK_NAMES = ("image", "w_query", "w_key", "w_value", "rel_row", "rel_col", "value")


def block_options(shape: tuple[int, ...], terms: str) -> dict:
    return {"block_size": shape[-1], "num_heads": shape[2], "content": terms != "relative"}


def block(image, w_query, w_key, w_value, rel_row, rel_col, value, **options):
    """`block_attention` with all its tensors by position."""
    return block_attention(image, w_query, w_key, w_value, rel_row, rel_col, value=value, **options)


def block_grad_output(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    batch, _, heads, _, value_dim, height, width, _ = shape
    return normal(batch, heads * value_dim, height, width, seed=99, dtype=dtype)


@cache
def block_reference(shape, terms, values, dtype):
    """The reference's output and gradients in float64, of inputs rounded to dtype."""
    tensors = double(block_inputs(*shape, terms=terms, values=values, dtype=dtype))
    grad = block_grad_output(shape, dtype).double()
    return output_and_gradients(block, tensors, grad, **block_options(shape, terms), backend="reference")


def assert_block_agrees(tensors: list, shape: tuple, backend: str, *, terms="both", values="weights") -> list:
    """Compare `block_attention` of `block_inputs(*shape, ...)` with the reference; output and gradients."""
    dtype = tensors[0].dtype
    grad = block_grad_output(shape, dtype)
    got = output_and_gradients(block, tensors, grad, **block_options(shape, terms), backend=backend)
    assert_agrees(got, block_reference(shape, terms, values, dtype), dtype, grad, BLOCK_NAMES)
    return got
