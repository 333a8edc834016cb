"""Checks of shapes, dtypes and options, made once before any back-end runs."""

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sasa.errors import ArgumentError

PADDINGS = ("zeros", "mask")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_kernel_size(kernel_size: int) -> None:
    """Raise unless kernel_size is a positive odd integer: a window is centred on its query."""
    if not isinstance(kernel_size, int) or isinstance(kernel_size, bool) or kernel_size < 1:
        raise ArgumentError(f"kernel_size must be a positive odd integer, got {kernel_size!r}")
    if kernel_size % 2 == 0:
        raise ArgumentError(
            f"kernel_size ({kernel_size}) must be odd: the window is centred on its query pixel; "
            f"use {kernel_size - 1} or {kernel_size + 1}"
        )


def check_padding(padding: object) -> None:
    """Raise unless padding is "zeros" or "mask"; an integer, as nn.Conv2d takes, gets its own message."""
    if isinstance(padding, int | tuple | list) and not isinstance(padding, bool):
        raise ArgumentError(
            f"padding ({padding}) is not a number of pixels here: attention always keeps the size of its map; "
            'leave padding out, or choose "zeros" (keys outside are zero vectors) or "mask" (no keys outside)'
        )
    if padding not in PADDINGS:
        raise ArgumentError(f'padding must be "zeros" or "mask", got {padding!r}')


def check_positive(value: object, name: str) -> None:
    """Raise unless the value is an integer (not a bool) of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArgumentError(f"{name} must be a positive integer, got {value!r}")


def check_scale(scale: object) -> None:
    """Raise unless the scale is a finite number; a parameter would be used as a number, and never trained."""
    if not isinstance(scale, Real) or not math.isfinite(scale):
        raise ArgumentError(f"scale must be a finite number, got {scale!r}")


def check_heads(channels: int, num_heads: int, name: str, *, relative: bool) -> None:
    """Raise unless num_heads divides the channels, with relative positions into an even number for each head."""
    check_positive(num_heads, "num_heads")
    if channels % num_heads:
        raise ArgumentError(f"{name} ({channels}) must be divisible by num_heads ({num_heads})")
    head_dim = channels // num_heads
    if relative and head_dim % 2:
        raise ArgumentError(
            f"relative positions need an even number of channels in each head, half for rows and half for "
            f"columns: {name} ({channels}) over num_heads ({num_heads}) gives {head_dim}"
        )


def check_same(tensors: dict[str, Tensor | None]) -> None:
    """Raise unless all tensors given are floating point, of one dtype and on one device."""
    given = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    first_name, first = given[0]
    if first.dtype not in DTYPES:
        raise ArgumentError(f"{first_name} must be floating point, got {first.dtype}")
    for name, tensor in given[1:]:
        if tensor.dtype != first.dtype:
            raise ArgumentError(f"{name} ({tensor.dtype}) must have the dtype of {first_name} ({first.dtype})")
        if tensor.device != first.device:
            raise ArgumentError(f"{name} ({tensor.device}) must be on the device of {first_name} ({first.device})")


def check_relative(rel_row: Tensor | None, rel_col: Tensor | None, expected: tuple[int, int, int]) -> None:
    """Raise unless both embeddings or neither are given, of the shape (num_heads, number of offsets, head_dim / 2)."""
    if (rel_row is None) != (rel_col is None):
        raise ArgumentError("rel_row and rel_col go together: give both or neither")
    for name, rel in (("rel_row", rel_row), ("rel_col", rel_col)):
        if rel is not None and tuple(rel.shape) != expected:
            raise ArgumentError(f"{name} {tuple(rel.shape)} must be (num_heads, offsets, head_dim / 2) = {expected}")


def check_dtypes(rel_row: Tensor | None, rel_col: Tensor | None, like: Tensor) -> None:
    """Raise unless the embeddings are in float32 or the query's dtype, and on its device.

    Args:
        rel_row: embedding of the row offset.
        rel_col: embedding of the column offset.
        like: the query, or the image whose pixels are projected to queries.
    """
    for name, rel in (("rel_row", rel_row), ("rel_col", rel_col)):
        if rel is None:
            continue
        if rel.dtype not in (like.dtype, torch.float32):
            raise ArgumentError(f"{name} ({rel.dtype}) must be float32 or have the query's dtype ({like.dtype})")
        if rel.device != like.device:
            raise ArgumentError(f"{name} ({rel.device}) must be on the query's device ({like.device})")


def has_tangent(tensor: Tensor | None) -> bool:
    """Return whether a tensor carries a forward-mode tangent."""
    if tensor is None or torch.compiler.is_compiling() or forward_ad._current_level < 0:  # as unpack_dual asks
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


def check_no_forward_mode(inputs: NamedTuple) -> None:
    """Raise for inputs with a forward-mode tangent, for back-ends that would silently drop it."""
    for name, tensor in zip(inputs._fields, inputs, strict=True):
        if has_tangent(tensor):
            raise NotImplementedError(
                f"{name} carries a forward-mode tangent: sasa operators differentiate in reverse mode only "
                '(backend="reference" differentiates in both)'
            )
