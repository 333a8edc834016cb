"""The one place where a dispatcher op is defined, implemented, faked, differentiated and counted.

Torch calls an op with a flat list of arguments. Here an op's arguments are a named tuple, which may hold named tuples
(`sasa.ops.arguments`); its fields, flattened, are the arguments of its schema, in the schema's order. Functions take
the tuple.

The CPU's kernels (csrc/) register themselves for CPU tensors when their library is loaded (`sasa.ops.native`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

Arguments = type[Any]  # a named tuple
Implementation = Callable[[Any], Any]  # the op's arguments -> its results
PLAIN_NAMESPACE = "sasa_plain"


class Gradient(NamedTuple):
    """How an op is differentiated by another op.

    Args:
        inputs: number of leading arguments that are kept for the backward pass and get gradients.
        kept: index of the result that is kept with them; no gradient flows into it.
        skipped: number of tensors between inputs and options, which get no gradient and are not kept.
        backward: (gradients of all results, None for one that nothing was computed from, kept inputs, kept result,
            options, whether the first input needs a gradient) -> gradients of the inputs, anything where an input is
            None.
    """

    inputs: int
    kept: int
    backward: Callable[[Sequence[Any], Sequence[Any], Tensor, Sequence[Any], bool], Sequence[Tensor]]
    skipped: int = 0

    def setup_context(self, ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
        """Keep what the backward pass needs; the rest of the arguments are options."""
        ctx.save_for_backward(*inputs[: self.inputs], output[self.kept])
        ctx.options = inputs[self.inputs + self.skipped :]
        ctx.mark_non_differentiable(output[self.kept])
        ctx.set_materialize_grads(False)  # else torch makes a map of zeros for the result that has no gradient

    def differentiate(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """A gradient for each argument: None for options, and for inputs that are None or do not need one."""
        *inputs, kept = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
        needed = ctx.needs_input_grad
        if all(grad is None for grad in grads):
            return (None,) * len(needed)
        results = self.backward(grads, inputs, kept, ctx.options, needed[0])
        wanted = (grad if need else None for grad, need in zip(results, needed, strict=False))
        return *wanted, *[None] * (self.skipped + len(ctx.options))


class CustomGradient(NamedTuple):
    """How an op is differentiated, in torch's own terms: see torch.library.register_autograd."""

    setup_context: Callable[[Any, tuple[Any, ...], Any], None]
    differentiate: Callable[..., Any]


def register(
    name: str,
    schema: str,
    arguments: Arguments,
    *,
    plain: Implementation,
    fake: Implementation,
    gradient: Gradient | CustomGradient | str | None,
    cuda: Implementation | None = None,
    flops: Callable[[Any], int] | None = None,
) -> None:
    """Make `torch.ops.sasa.NAME` known to torch.

    Args:
        name: without the namespace.
        schema: arguments and results, as torch.library.define takes them.
        arguments: the named tuple of the schema's arguments.
        plain: the op in plain torch, for every device that has no kernel of its own. As in `cuda` and `fake`, a
            result that is None becomes an empty tensor: a schema cannot return an optional one.
        fake: results without their numbers, of the right shape, dtype and strides.
        gradient: how the op is differentiated, or the sentence with which it refuses; None for an op that writes over
            its inputs, which torch refuses to differentiate by itself.
        cuda: the op for CUDA tensors; not used where a library has registered kernels for them.
        flops: what a call costs, from its arguments; for torch's FlopCounterMode.
    """
    qualified = f"sasa::{name}"
    torch.library.define(qualified, schema)
    pack = packer(arguments)
    torch.library.impl(qualified, "CompositeExplicitAutograd", _flat(plain, pack))
    if not has_kernel(name, "CUDA"):
        if cuda is not None:
            torch.library.impl(qualified, "CUDA", _flat(cuda, pack))
    else:  # csrc/cuda_or_plain.h calls it where no kernel takes a call
        torch.library.define(f"{PLAIN_NAMESPACE}::{name}", schema)
        torch.library.impl(f"{PLAIN_NAMESPACE}::{name}", "CompositeExplicitAutograd", _flat(plain, pack))
    torch.library.register_fake(qualified, _flat(fake, pack))
    if isinstance(gradient, str):
        torch.library.register_autograd(qualified, _refusal(gradient))
    elif gradient is not None:
        torch.library.register_autograd(qualified, gradient.differentiate, setup_context=gradient.setup_context)
    if flops is not None:
        formula = flop_formula(arguments, flops)
        register_flop_formula(getattr(torch.ops.sasa, name), get_raw=True)(formula)


def register_twin(namespace: str, name: str) -> None:
    """Define `torch.ops.NAMESPACE.NAME` with the schema and the fake of `torch.ops.sasa.NAME`.

    It has no implementation in plain torch: calls reach the kernels that a library registered for it, or fail.
    """
    op = getattr(torch.ops.sasa, name).default
    torch.library.define(f"{namespace}::{name}", str(op._schema).partition(name)[2])
    torch.library.register_fake(f"{namespace}::{name}", op)


def has_kernel(name: str, key: str) -> bool:
    """Whether a kernel of the op `sasa::NAME` is registered for a dispatch key of its own, such as "CPU"."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"sasa::{name}", key)


def flop_formula(arguments: Arguments, count: Callable[[Any], int]) -> Callable[..., int]:
    """`count`, which takes an op's named tuple, as torch's FlopCounterMode calls a formula."""
    pack = packer(arguments)

    def formula(*values: Any, **_: Any) -> int:
        return count(pack(iter(values)))

    formula._get_raw = True  # pyright: ignore[reportFunctionMemberAccess] - FlopCounterMode passes tensors then, and not their shapes
    return formula


def packer(arguments: Arguments) -> Callable[[Iterator[Any]], Any]:
    """The function that takes a named tuple's fields, flattened, from an iterator and puts them together."""
    hints = get_type_hints(arguments)
    parts = [packer(hints[field]) if _is_named_tuple(hints[field]) else next for field in arguments._fields]

    def pack(values: Iterator[Any]) -> Any:
        return arguments(*(part(values) for part in parts))

    return pack


def flatten(arguments: Iterable[Any]) -> Iterator[Any]:
    """The inverse: an op's arguments one after the other."""
    for value in arguments:
        if _is_named_tuple(type(value)):
            yield from flatten(value)
        else:
            yield value


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _flat(function: Implementation, pack: Callable[[Iterator[Any]], Any]) -> Callable[..., Any]:
    """The function as torch calls it: flat arguments, and no None among the results."""

    def call(*values: Any) -> Any:
        results = function(pack(iter(values)))
        if not isinstance(results, tuple):
            return results
        like = next(value for value in values if isinstance(value, Tensor))
        return tuple(like.new_empty(0) if result is None else result for result in results)

    return call


def _refusal(sentence: str) -> Callable[..., None]:
    def refuse(ctx: Any, *grads: Any) -> None:
        raise NotImplementedError(sentence)

    return refuse
