"""Functions of tensors: the operators, their implementations, and the choice between them."""

from sasa.ops import flops as _flops  # noqa: F401 - registers the formulas with torch's FlopCounterMode
from sasa.ops.backends import backends
from sasa.ops.block_attention import block_attention
from sasa.ops.local_attention import local_attention

__all__ = ["backends", "block_attention", "local_attention"]
