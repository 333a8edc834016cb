"""`sasa::affine_`: batch norm in evaluation, shortcut and ReLU in one pass and in place, for inference on the CPU.

In eager mode each of these steps reads and writes the whole map and allocates memory for the result, which takes most
of the time: together they take about as long as some of the convolutions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sasa.ops.precision import compute_dtype
from sasa.ops.register import register


def affine_(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, residual: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """Overwrite x with x * gain + shift for each channel, plus residual, and ReLU.

    Args:
        x: (B, C, H, W), dense: contiguous or channels_last; must not be needed for a gradient.
        gain: (C,), or None for 1.
        shift: (C,), or None for 0.
        residual: (B, C, H, W), or None.
        relu: whether negative results become 0.

    Returns:
        x.
    """
    if residual is not None and residual.stride() != x.stride():
        residual = torch.empty_like(x).copy_(residual)
    torch.ops.sasa.affine_(x, gain, shift, residual, relu)
    return x


class Affine(NamedTuple):
    """Arguments of the op `sasa::affine_`, as in the function."""

    x: Tensor
    gain: Tensor | None
    shift: Tensor | None
    residual: Tensor | None
    relu: bool


def _affine(call: Affine) -> None:
    x, gain, shift, residual, relu = call
    y = x.to(compute_dtype(x))  # rounded once, at the end
    if gain is not None:
        y = y * gain[:, None, None]
    if shift is not None:
        y = y + shift[:, None, None]
    if residual is not None:
        y = y + residual
    x.copy_(y.relu() if relu else y)


register(
    "affine_",
    Affine,
    "()",
    plain=_affine,
    fake=lambda call: None,
    gradient=None,
)
