"""What the paper's FLOPS cells count: two conventions, as formulas that replace those of torch's FlopCounterMode.

The paper does not say how it counted: both were fitted to its tables, and nothing but the fit confirms them. Both
count 2 for each multiply-add of convolutions, linear layers, q/k/v, q.k and a.v, with all keys of the window also at
the border, and the stem's values as M products a pixel and their mixture (`_Stems` in count.py).

- "simple": q.r as one product of D for each key of the window, and nothing element-wise.
- "calibrated": the relative term 1 for each (query, key, channel), as if k + r came first and then q.(k + r); without
  content there is no k to add r to, and q.r is K row and K column products of D / 2. Softmax 5 a logit, batch norm 4,
  ReLU 1, addition of maps 1, pooling 1 for each element of each window.

Formulas of torch's own ops get shapes in place of tensors, and `out_shape`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sasa.ops.arguments import BlockForward, LocalForward, QkvForward
from sasa.ops.flops import block_projections, pixels
from sasa.ops.register import flop_formula

aten = torch.ops.aten
Shape = Sequence[int]

SOFTMAX, NORM = 5, 4  # for each logit, for each element


def _attention_simple(query: int, value: int, keys: int, content: bool, relative: bool) -> int:
    """FLOPS of one query pixel with `query` and `value` channels in all heads."""
    return 2 * keys * (content * query + relative * query + value)


def _attention_calibrated(
    query: int, value: int, keys: int, content: bool, relative: bool, num_heads: int, side: int
) -> int:
    """FLOPS of one query pixel; `side` is the side of its window, in keys."""
    relative_ops = keys * query if content else 2 * side * query
    return 2 * keys * (content * query + value) + relative * relative_ops + SOFTMAX * keys * num_heads


def _local_simple(call: LocalForward) -> int:
    query, key, value, rel_row, _ = call.inputs
    terms = (key is not None, rel_row is not None)
    return pixels(query) * _attention_simple(query.shape[1], value.shape[1], call.options.kernel_size**2, *terms)


def _local_calibrated(call: LocalForward) -> int:
    query, key, value, rel_row, _ = call.inputs
    kernel_size, num_heads, *_ = call.options
    terms = (key is not None, rel_row is not None)
    return pixels(query) * _attention_calibrated(
        query.shape[1], value.shape[1], kernel_size**2, *terms, num_heads=num_heads, side=kernel_size
    )


def _block_simple(call: BlockForward) -> int:
    inputs, keys = call.inputs, call.options.block_size**2
    terms = (inputs.w_key is not None, inputs.rel_row is not None)
    attention = _attention_simple(inputs.w_query.shape[0], inputs.value_channels, keys, *terms)
    return block_projections(inputs) + pixels(inputs.image) * attention


def _block_calibrated(call: BlockForward) -> int:
    inputs, (side, num_heads, _) = call
    terms = (inputs.w_key is not None, inputs.rel_row is not None)
    attention = _attention_calibrated(
        inputs.w_query.shape[0], inputs.value_channels, side**2, *terms, num_heads=num_heads, side=side
    )
    return block_projections(inputs) + pixels(inputs.image) * attention


def mixture_extra_flops(image: Tensor, out_channels: int, num_mixtures: int) -> int:
    """What the paper's values cost beyond one matrix a pixel: the M products of Eq. 8 and their mixture, Section 3.2.

    2 * M * (C * d + d) a pixel for C channels of the image, less the 2 * C * d that the op's formula counts.
    """
    return 2 * pixels(image) * out_channels * (num_mixtures * (image.shape[1] + 1) - image.shape[1])


def _each(factor: int) -> Callable[..., int]:
    """`factor` for each element of the first argument."""
    return lambda first, *_, **__: factor * math.prod(first)


def _addition(first: Shape | float, second: Shape | float, *_: Any, out_shape: Shape, **__: Any) -> int:
    """1 for each element of a sum of two maps; a number that is added is no map."""
    return math.prod(out_shape) if isinstance(first, Sequence) and isinstance(second, Sequence) else 0


def _pooling(_input: Shape, kernel_size: int | Sequence[int], *_: Any, out_shape: Any, **__: Any) -> int:
    """1 for each element of each window; some pools return (map, indices), both of the output's shape."""
    output = out_shape[0] if isinstance(out_shape[0], Sequence) else out_shape
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else (kernel_size[0], kernel_size[-1])
    return math.prod(output) * height * width


SIMPLE: dict[Any, Callable[..., int]] = {
    torch.ops.sasa.local_attention: flop_formula(LocalForward, _local_simple),
    torch.ops.sasa.qkv_attention: flop_formula(QkvForward, lambda call: _local_simple(call.local)),
    torch.ops.sasa.block_attention: flop_formula(BlockForward, _block_simple),
}

CALIBRATED: dict[Any, Callable[..., int]] = {
    torch.ops.sasa.local_attention: flop_formula(LocalForward, _local_calibrated),
    torch.ops.sasa.qkv_attention: flop_formula(QkvForward, lambda call: _local_calibrated(call.local)),
    torch.ops.sasa.block_attention: flop_formula(BlockForward, _block_calibrated),
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
    # Windows that cover the map once: each element of the input is in one of them.
    aten.mean: _each(1),
    aten._adaptive_avg_pool2d: _each(1),
}
