"""Functions of tensors: the operators, their implementations, and the choice of implementation."""

from sasa.imports import after_import
from sasa.ops import block_pooled, norm_relu, pointwise, qkv_attention  # noqa: F401 - they register ops as well
from sasa.ops.backends import backends
from sasa.ops.block_attention import block_attention
from sasa.ops.local_attention import local_attention
from sasa.ops.register import register_flop_formulas

# Only then: importing it takes a tenth of a second, where Triton is installed.
after_import("torch.utils.flop_counter", register_flop_formulas)

__all__ = ["backends", "block_attention", "local_attention"]
