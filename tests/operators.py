"""What the tests of the dispatcher ops share: both operators at one small shape, and inputs that ask for gradients."""

import pytest

from helpers import backend_params, block_inputs, local_inputs
from sasa.ops import block_attention, local_attention

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


OPERATORS = pytest.mark.parametrize(
    ("operator", "make_inputs"),
    [(local, lambda **o: local_inputs(*LOCAL_SHAPE, **o)), (block, lambda **o: block_inputs(*BLOCK_SHAPE, **o))],
    ids=["local_attention", "block_attention"],
)


def leaves(tensors):
    return [None if t is None else t.detach().requires_grad_() for t in tensors]
