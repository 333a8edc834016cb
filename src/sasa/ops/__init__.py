"""Functions of tensors: the operators, their implementations, and the choice between them."""

from sasa.ops import affine, block_pooled, norm_relu, qkv_attention  # noqa: F401 - they register ops as well
from sasa.ops.backends import backends
from sasa.ops.block_attention import block_attention
from sasa.ops.local_attention import local_attention

__all__ = ["backends", "block_attention", "local_attention"]
