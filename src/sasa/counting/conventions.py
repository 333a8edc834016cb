"""Two conventions of counting the FLOPs in the paper's tables, as formulas for torch's FlopCounterMode.

The paper does not say how it counts. Both conventions were fitted to its tables, and only the fit supports them. Both
count 2 for each multiply-add of convolutions, linear layers, q/k/v, q.k and a.v, with all keys of the window even at
the border, and the stem's values as M products a pixel and their mixture (`_StemCorrections` in count.py).

- "simple": q.r as one product of D for each key of the window; element-wise operations are not counted.
- "calibrated": the relative term 1 for each (query, key, channel), as in q.(k + r); without content, q.r is K row and
  K column products of D / 2. Softmax 5 for each logit, batch norm 4, ReLU 1 and addition of maps 1 for each element,
  pooling 1 for each element of each window.

FlopCounterMode calls the formulas of torch's own ops with shapes instead of tensors, and `out_shape`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sasa.ops.arguments import BlockForward, LocalForward, QkvForward
from sasa.ops.flops import block_projections, pixels
from sasa.ops.register import flop_formula

aten = torch.ops.aten
Shape = Sequence[int]

SOFTMAX, NORM = 5, 4  # for each logit, for each element


class _Query(NamedTuple):
    """What the FLOPs of one query pixel depend on."""

    channels: int  # of all heads together, as those of the values
    value_channels: int
    side: int  # of the window, in keys
    num_heads: int
    content: bool
    relative: bool


def _simple(query: _Query) -> int:
    channels, value_channels, side, _, content, relative = query
    return 2 * side**2 * (content * channels + relative * channels + value_channels)


def _calibrated(query: _Query) -> int:
    channels, value_channels, side, num_heads, content, relative = query
    keys = side**2
    relative_ops = keys * channels if content else 2 * side * channels
    return 2 * keys * (content * channels + value_channels) + relative * relative_ops + SOFTMAX * keys * num_heads


def _attention(count: Callable[[_Query], int]) -> dict[Any, Callable[..., int]]:
    """Make the formulas of the attention operators from the FLOPs of one query pixel."""

    def local(call: LocalForward) -> int:
        query, key, value, rel_row, _ = call.inputs
        size, terms = (call.options.kernel_size, call.options.num_heads), (key is not None, rel_row is not None)
        return pixels(query) * count(_Query(query.shape[1], value.shape[1], *size, *terms))

    def block(call: BlockForward) -> int:
        inputs, (side, num_heads, _) = call
        channels, terms = inputs.w_query.shape[0], (inputs.w_key is not None, inputs.rel_row is not None)
        each = count(_Query(channels, inputs.value_channels, side, num_heads, *terms))
        return block_projections(inputs) + pixels(inputs.image) * each

    return {
        torch.ops.sasa.local_attention: flop_formula(LocalForward, local),
        torch.ops.sasa.qkv_attention: flop_formula(QkvForward, lambda call: local(call.local)),
        torch.ops.sasa.block_attention: flop_formula(BlockForward, block),
    }


def mixture_extra_flops(image: Tensor, out_channels: int, num_mixtures: int) -> int:
    """Count FLOPs of the values in Section 3.2, M products a pixel and their mixture, beyond the op's one product.

    2 * M * (C * d + d) a pixel for C channels of the image, less the 2 * C * d that the op's formula counts.
    """
    return 2 * pixels(image) * out_channels * (num_mixtures * (image.shape[1] + 1) - image.shape[1])


def _each(factor: int) -> Callable[..., int]:
    """Make a formula that counts `factor` for each element of the first argument."""
    return lambda first, *_, **__: factor * math.prod(first)


def _addition(first: Shape | float, second: Shape | float, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Count 1 for each element of a sum of two maps, and 0 if a number is added."""
    return math.prod(out_shape) if isinstance(first, Sequence) and isinstance(second, Sequence) else 0


def _pooling(_input: Shape, kernel_size: int | Sequence[int], *_: Any, out_shape: Any, **__: Any) -> int:
    """Count 1 for each element of each window; some ops return (map, indices), which have the same shape."""
    output = out_shape[0] if isinstance(out_shape[0], Sequence) else out_shape
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else (kernel_size[0], kernel_size[-1])
    return math.prod(output) * height * width


SIMPLE = _attention(_simple)
CALIBRATED = _attention(_calibrated) | {
    aten.native_batch_norm: _each(NORM),
    aten._native_batch_norm_legit_no_training: _each(NORM),
    aten._softmax: _each(SOFTMAX),
    aten._safe_softmax: _each(SOFTMAX),
    aten.relu: _each(1),
    aten.relu_: _each(1),
    aten.add: _addition,
    aten.add_: _addition,
    aten.max_pool2d_with_indices: _pooling,
    aten.avg_pool2d: _pooling,
    # Here the windows cover the map once, so each element of the input is in exactly one.
    aten.mean: _each(1),
    aten._adaptive_avg_pool2d: _each(1),
}
