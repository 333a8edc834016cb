"""Calls of dispatcher ops, without the time that a gradient registered with the dispatcher takes in eager mode.

torch.library.register_autograd serves every mode of torch, and takes two fifths of the host time of a small call
(benchmarks/README.md). In eager mode `call_op` applies the same gradient as a torch.autograd.Function.
"""

from typing import Any

import torch

from sasa.ops.fusion import is_eager
from sasa.ops.gradients import CustomGradient, Gradient

FUNCTIONS: dict[str, type[torch.autograd.Function]] = {}


def call_op(name: str, *arguments: Any) -> Any:
    """Call the op `sasa::NAME`, differentiable."""
    op = getattr(torch.ops.sasa, name).default
    if not is_eager():
        return op(*arguments)
    if torch.is_grad_enabled():
        return FUNCTIONS[name].apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def add_function(name: str, gradient: Gradient | CustomGradient) -> None:
    """Add the op `sasa::NAME`, with its gradient, to those that `call_op` applies as a torch.autograd.Function."""
    op = getattr(torch.ops.sasa, name).default

    def forward(ctx: Any, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            results = op(*arguments)
        gradient.setup_context(ctx, arguments, results)
        return results

    def backward(ctx: Any, *grads: Any) -> Any:
        return gradient.differentiate(ctx, *grads)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    FUNCTIONS[name] = type(name.title().replace("_", ""), (torch.autograd.Function,), methods)
