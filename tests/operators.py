"""Helpers of the tests of operators: the public ones at one small shape, the internal ones with flat arguments."""

from typing import Any

import pytest
from torch import Tensor

from helpers import backend_params, block_inputs, local_inputs
from sasa.ops import block_attention, local_attention
from sasa.ops import block_pooled as pooled_module
from sasa.ops.arguments import BlockInputs, BlockOptions, Epilogue, QkvInputs, QkvOptions
from sasa.ops.qkv_attention import qkv_attention as attend
from sasa.ops.qkv_attention import qkv_attention_inference as infer

BACKEND = pytest.mark.parametrize("backend", backend_params("auto", "eager"))
LOCAL_SHAPE = (2, 2, 4, 2, 5, 4, 3)
BLOCK_SHAPE = (2, 3, 2, 4, 2, 5, 6, 4)


def local(*tensors, **options):
    """`local_attention` of the shape LOCAL_SHAPE."""
    content = tensors[1] is not None
    return local_attention(*tensors, **{"kernel_size": 3, "num_heads": 2, "content": content, **options})


def block(image, w_query, w_key, w_value, rel_row, rel_col, value, **options):
    """`block_attention` of the shape BLOCK_SHAPE."""
    options = {"block_size": 4, "num_heads": 2, "content": w_key is not None, **options}
    return block_attention(image, w_query, w_key, w_value, rel_row, rel_col, value=value, **options)


def qkv_attention(*tensors: Any, backend: str = "auto", **options) -> Tensor:
    """The operator on qkv, rel_row (or None) and rel_col; scale 1 and content by default."""
    return attend(QkvInputs(*tensors, *[None] * (3 - len(tensors))), _qkv_options(options), backend)


def qkv_attention_inference(*tensors: Any, relu: bool, pool: int, **options) -> Tensor:
    """The operator on qkv, rel_row, rel_col, gain and shift; scale 1 and content by default."""
    return infer(QkvInputs(*tensors[:3]), Epilogue(*tensors[3:], relu, pool), _qkv_options(options))


def _qkv_options(options: dict) -> QkvOptions:
    return QkvOptions(**{"scale": 1.0, "content": True, **options})


def block_attention_pooled(*tensors: Any, **options) -> tuple[Tensor, Tensor]:
    """The operator on the seven tensors of `block_attention` and the signs."""
    return pooled_module.block_attention_pooled(BlockInputs(*tensors[:7]), tensors[7], BlockOptions(**options))


OPERATORS = pytest.mark.parametrize(
    ("operator", "make_inputs"),
    [(local, lambda **o: local_inputs(*LOCAL_SHAPE, **o)), (block, lambda **o: block_inputs(*BLOCK_SHAPE, **o))],
    ids=["local_attention", "block_attention"],
)


def leaves(tensors):
    return [None if t is None else t.detach().requires_grad_() for t in tensors]


def of_given(operator, tensors, **options):
    """The operator as a function of the tensors that are not None, and those, as gradcheck takes them."""
    given = [t for t in leaves(tensors) if t is not None]

    def function(*some):
        rest = iter(some)
        return operator(*(None if t is None else next(rest) for t in tensors), **options)

    return function, given
