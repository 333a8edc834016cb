"""Local attention of CUDA tensors: the kernels where they can run, plain torch where not; Triton is imported here.

The functions have the arguments of `eager.forward` and `eager.backward`.
"""

from types import ModuleType

from torch import Tensor

from sasa.ops import eager
from sasa.ops.gpu import available

MOST_CHANNELS = 128  # of a head: its pixels are held in registers


def why_not(query: Tensor, value: Tensor, num_heads: int) -> str | None:
    """None where the kernels can run on such maps, else the sentence that says why not."""
    reason = available.why_not(query)
    if reason is not None:
        return reason
    largest = max(query.shape[1], value.shape[1]) // num_heads
    if largest > MOST_CHANNELS:
        return f"a head has {largest} channels, and these kernels hold at most {MOST_CHANNELS}"
    return None


def forward(query: Tensor, key: Tensor | None, value: Tensor, rel_row, rel_col, kernel_size, num_heads, *rest):
    """Eq. 3: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""
    implementation = _implementation(query, value, num_heads)
    return implementation.forward(query, key, value, rel_row, rel_col, kernel_size, num_heads, *rest)


def backward(grad_output, query: Tensor, key: Tensor | None, value: Tensor, *rest):
    """Gradients for query, key, value, rel_row, rel_col (None where the input was None)."""
    num_heads = rest[4]
    return _implementation(query, value, num_heads).backward(grad_output, query, key, value, *rest)


def backward_into(grads: tuple[Tensor, Tensor | None, Tensor], grad_output: Tensor, *arguments):
    """`backward`, the gradients of query, key and value written into given maps."""
    query, _, value, *rest = arguments
    implementation = _implementation(query, value, rest[4])
    if implementation is not eager:
        return implementation.backward(grad_output, *arguments, into=grads)
    results = eager.backward(grad_output, *arguments)
    for given, result in zip(grads, results[:3], strict=True):
        if given is not None and result is not None:
            given.copy_(result)
    return *grads, *results[3:]


def _implementation(query: Tensor, value: Tensor, num_heads: int) -> ModuleType:
    if why_not(query, value, num_heads) is not None:
        return eager
    from sasa.ops.gpu import local_launch

    return local_launch
