"""Gradients of dispatcher ops: by another op, by a pair of functions, and second derivatives by autograd.

`sasa.ops.register` passes them to torch.library.register_autograd.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Gradient(NamedTuple):
    """Gradient of an op that is computed by another op.

    Args:
        inputs: number of leading arguments that are saved for the backward pass and get gradients.
        kept: index of the result that is saved with them; it has no gradient.
        skipped: number of tensors between inputs and options, which get no gradient and are not saved.
        backward: (gradients of all results, None for an unused one; saved inputs; saved result; options; whether the
            first input needs a gradient) -> gradients of the inputs, anything where an input is None.
    """

    inputs: int
    kept: int
    backward: Callable[[Sequence[Any], Sequence[Any], Tensor, Sequence[Any], bool], Sequence[Tensor]]
    skipped: int = 0

    def setup_context(self, ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
        """Save what the backward pass needs; the remaining arguments are options."""
        ctx.save_for_backward(*inputs[: self.inputs], output[self.kept])
        ctx.options = inputs[self.inputs + self.skipped :]
        ctx.mark_non_differentiable(output[self.kept])
        ctx.set_materialize_grads(False)  # else torch allocates zeros for the result without a gradient

    def differentiate(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """Return a gradient for each argument: None for options, and for inputs that are None or need no gradient."""
        *inputs, kept = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
        needed = ctx.needs_input_grad
        if all(grad is None for grad in grads):
            return (None,) * len(needed)
        results = self.backward(grads, inputs, kept, ctx.options, needed[0])
        wanted = (grad if need else None for grad, need in zip(results, needed, strict=False))
        return *wanted, *[None] * (self.skipped + len(ctx.options))


class CustomGradient(NamedTuple):
    """Gradient of an op as torch.library.register_autograd takes it."""

    setup_context: Callable[[Any, tuple[Any, ...], Any], None]
    differentiate: Callable[..., Any]


class SecondGradient(NamedTuple):
    """Gradient of a backward op, by autograd through the same gradients composed of torch's own operations.

    It runs only where a gradient is differentiated again (`create_graph=True`), and to any order. It is slow.

    Args:
        composed: the op's arguments -> its results, differentiable.
    """

    composed: Callable[[Any], Sequence[Tensor | None]]

    def functions(self, pack: Callable[[Iterator[Any]], Any]) -> CustomGradient:
        """The pair that torch.library.register_autograd takes, for an op whose arguments `pack` puts together."""

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))
            ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
            ctx.set_materialize_grads(False)

        def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            create_graph, needed = torch.is_grad_enabled(), ctx.needs_input_grad
            saved = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
            with torch.enable_grad():
                # One tensor may be several arguments: an alias of each tells their gradients apart.
                values = [
                    tensor.view_as(tensor) if need else other if tensor is None else tensor
                    for tensor, other, need in zip(saved, ctx.others, needed, strict=True)
                ]
                results = self.composed(pack(iter(values)))
                used = [
                    (result, grad)
                    for result, grad in zip(results, grads, strict=True)
                    if result is not None and result.requires_grad and grad is not None
                ]
                if not used:
                    return (None,) * len(needed)
                wanted = [value for value, need in zip(values, needed, strict=True) if need]
                outputs, grad_outputs = zip(*used, strict=True)
                found = torch.autograd.grad(outputs, wanted, grad_outputs, create_graph=create_graph, allow_unused=True)
            of_wanted = iter(found)
            return tuple(next(of_wanted) if need else None for need in needed)

        return CustomGradient(setup_context, differentiate)


def _fresh(tensor: Tensor | None) -> Tensor | None:
    """Return an alias that requires a gradient, because one tensor may be passed as several inputs."""
    if tensor is None:
        return None
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def composed_gradients(
    function: Callable[[Any], Sequence[Tensor]], inputs: Any, grad_outputs: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of `function` by autograd, differentiable with respect to inputs and grad_outputs.

    Args:
        function: inputs -> outputs, of torch's own operations.
        inputs: a named tuple of tensors, some None.
        grad_outputs: one for each output.

    Returns:
        A gradient for each input, None for None.
    """
    fresh = type(inputs)(*map(_fresh, inputs))
    given = [t for t in fresh if t is not None]
    grads = torch.autograd.grad(
        function(fresh), given, grad_outputs, create_graph=True, allow_unused=True, materialize_grads=True
    )
    of_given = iter(grads)
    return tuple(None if t is None else next(of_given) for t in fresh)
