"""Registration of dispatcher ops: schema, implementations, fake, gradient and FLOP formula of each in one call.

Torch calls an op with a flat list of arguments. Here an op's arguments are a named tuple, which may hold named tuples
(`sasa.ops.arguments`); its fields, flattened, are the arguments of its schema. Functions take the tuple.

The library of kernels (csrc/), where it is loaded (`sasa.ops.native`), has defined the same schemas already
(csrc/ops/schemas.cpp) and registered its kernels, so that a C++ program can use it alone.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

import torch
from torch import Tensor

from sasa.ops import native  # noqa: F401 - loaded first: its library defines the schemas
from sasa.ops.arguments import Calls
from sasa.ops.call import add_function, call_op
from sasa.ops.gradients import CustomGradient, Gradient, SecondGradient, composed_gradients
from sasa.ops.precision import compute_dtype, empty_map

Arguments = type[Any]  # a named tuple
Implementation = Callable[[Any], Any]  # the op's arguments -> its results
PLAIN_NAMESPACE = "sasa_plain"
SCHEMA_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", float: "float", bool: "bool", str: "str"}
FLOP_FORMULAS: dict[Any, Callable[..., int]] = {}


class Functions(Protocol):
    """An operator as two functions of its calls (`sasa.ops.arguments`): a module, for instance."""

    def forward(self, call: Any, /) -> Any:
        """Output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""

    def backward(self, call: Any, /) -> Any:
        """A gradient for each input; None where the input was None, and for an image that needs no gradient."""


@dataclass(frozen=True)
class FunctionPair:
    """Two functions as `Functions`."""

    forward: Callable[[Any], Any]
    backward: Callable[[Any], Any]


def register_attention(
    calls: Calls,
    *,
    plain: Functions,
    cuda: Functions,
    channels: Callable[[Any], int],
    flops: Functions,
    reference: Callable[[Any, Any], tuple[Tensor, Tensor]],
) -> None:
    """Register an attention op, which returns (output, log-sum-exp), and the op of its gradients.

    Args:
        calls: named tuples of the arguments of both.
        plain: as in `register`, of both ops, like `cuda` and `flops`.
        channels: number of channels of a forward call's output, which else has the size of its first input.
        reference: (inputs, options) -> (output, log-sum-exp), for second derivatives.
    """
    count, name = len(calls.inputs._fields), f"{calls.name}_backward"

    def gradient(grads, inputs, logsumexp, options, image_gradient):
        return call_op(name, grads[0], *inputs, logsumexp, *options, *calls.needs(image_gradient))

    def composed(call):
        return composed_gradients(lambda inputs: reference(inputs, call.options)[:1], call.inputs, [call.grad_output])

    def fake(call):
        like, heads = call.inputs[0], call.options.num_heads
        logsumexp = like.new_empty((like.shape[0], heads, *like.shape[2:]), dtype=compute_dtype(like))
        return empty_map(like, channels(call)), logsumexp

    register(
        f"{calls.name} -> (Tensor output, Tensor logsumexp)", calls.forward,
        plain=plain.forward, cuda=cuda.forward, fake=fake, flops=flops.forward,
        gradient=Gradient(inputs=count, kept=1, backward=gradient),
    )  # fmt: skip
    register(
        f"{name} -> ({', '.join(['Tensor'] * count)})", calls.backward,
        plain=plain.backward, cuda=cuda.backward, fake=fake_gradients, flops=flops.backward,
        gradient=SecondGradient(composed),
    )  # fmt: skip


def fake_gradients(call: Any) -> tuple[Tensor | None, ...]:
    """Return uninitialised gradients of a backward call: in the layout of maps, contiguous for weights."""
    grads = [
        None if t is None else empty_map(t, t.shape[1]) if t.dim() == 4 else t.new_empty(t.shape) for t in call.inputs
    ]
    return grads[0] if getattr(call, "image_gradient", True) else None, *grads[1:]


def register(
    signature: str,
    arguments: Arguments,
    *,
    plain: Implementation,
    fake: Implementation,
    gradient: Gradient | CustomGradient | SecondGradient | str | None,
    cuda: Implementation | None = None,
    flops: Callable[[Any], int] | None = None,
) -> None:
    """Register an op of `torch.ops.sasa`.

    Args:
        signature: NAME -> RESULTS, as a schema has them; the results of an op that overwrites its first argument
            are "()".
        arguments: the named tuple of its arguments.
        plain: the op in plain torch, for every device without a kernel of its own. As in `cuda` and `fake`, a result
            that is None becomes an empty tensor: a schema cannot return an optional one.
        fake: uninitialised results of the right shape, dtype and strides.
        gradient: the op's gradient, or the sentence of the error that differentiating it raises; None for an op that
            overwrites its inputs, which torch itself refuses to differentiate.
        cuda: the op for CUDA tensors; not used where the library has registered kernels for them.
        flops: FLOPs of a call, from its arguments; for torch's FlopCounterMode.
    """
    name, _, results = signature.partition(" -> ")
    qualified, schema = f"sasa::{name}", schema_of(arguments, results)
    if not hasattr(torch.ops.sasa, name):
        torch.library.define(qualified, schema)
    pack = packer(arguments)
    torch.library.impl(qualified, "CompositeExplicitAutograd", with_flat_arguments(plain, pack))
    if not torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "CUDA"):
        if cuda is not None:
            torch.library.impl(qualified, "CUDA", with_flat_arguments(cuda, pack))
    else:  # csrc/cuda_or_plain.h calls it where no kernel supports a call
        torch.library.define(f"{PLAIN_NAMESPACE}::{name}", schema)
        torch.library.impl(f"{PLAIN_NAMESPACE}::{name}", "CompositeExplicitAutograd", with_flat_arguments(plain, pack))
    torch.library.register_fake(qualified, with_flat_arguments(fake, pack))
    if isinstance(gradient, SecondGradient):
        gradient = gradient.functions(pack)
    if isinstance(gradient, str):
        torch.library.register_autograd(qualified, _refusal(gradient))
    elif gradient is not None:
        torch.library.register_autograd(qualified, gradient.differentiate, setup_context=gradient.setup_context)
        add_function(name, gradient)
    if flops is not None:
        FLOP_FORMULAS[getattr(torch.ops.sasa, name)] = flop_formula(arguments, flops)


def register_flop_formulas() -> None:
    """Register the formulas of all ops with torch's FlopCounterMode."""
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    for op, formula in FLOP_FORMULAS.items():
        register_flop_formula(op, get_raw=True)(formula)
    onednn = torch.ops.aten.mkldnn_convolution  # torch's own table ends at aten::convolution, which calls it
    if onednn not in flop_registry:
        register_flop_formula(onednn)(_convolution_flops)


def _convolution_flops(x: list[int], weight: list[int], *_: Any, out_shape: list[int], **__: Any) -> int:
    from torch.utils.flop_counter import conv_flop_count

    return conv_flop_count(x, weight, out_shape)


def register_twins(namespace: str, calls: Calls) -> None:
    """Define ops in `torch.ops.NAMESPACE` with the schemas and fakes of an attention op and the op of its gradients.

    They have no implementation in plain torch: a call runs a kernel that a library registered for it, or fails.
    """
    for name in (calls.name, f"{calls.name}_backward"):
        op = getattr(torch.ops.sasa, name).default
        torch.library.define(f"{namespace}::{name}", str(op._schema).partition(name)[2])
        torch.library.register_fake(f"{namespace}::{name}", op)


def flop_formula(arguments: Arguments, count: Callable[[Any], int]) -> Callable[..., int]:
    """Wrap `count`, which takes an op's named tuple, in the signature that torch's FlopCounterMode calls."""
    pack = packer(arguments)

    def formula(*values: Any, **_: Any) -> int:
        return count(pack(iter(values)))

    formula._get_raw = True  # pyright: ignore[reportFunctionMemberAccess] - FlopCounterMode then passes tensors, not shapes
    return formula


def schema_of(arguments: Arguments, results: str) -> str:
    """Return the schema of an op, without its name."""
    text = ", ".join(f"{SCHEMA_TYPES[kind]} {field}" for field, kind in _fields(arguments))
    if results == "()":
        text = text.replace("Tensor", "Tensor(a!)", 1)
    return f"({text}) -> {results}"


def _fields(arguments: Arguments) -> Iterator[tuple[str, Any]]:
    for field, kind in get_type_hints(arguments).items():
        if _is_named_tuple(kind):
            yield from _fields(kind)
        else:
            yield field, kind


def packer(arguments: Arguments) -> Callable[[Iterator[Any]], Any]:
    """Return a function that builds the named tuple from an iterator over its flattened fields."""
    hints = get_type_hints(arguments)
    parts = [packer(hints[field]) if _is_named_tuple(hints[field]) else next for field in arguments._fields]

    def pack(values: Iterator[Any]) -> Any:
        return arguments(*(part(values) for part in parts))

    return pack


def flatten(arguments: Iterable[Any]) -> Iterator[Any]:
    """The inverse of `packer`: an op's arguments one after the other."""
    for value in arguments:
        if isinstance(value, tuple):
            yield from flatten(value)
        else:
            yield value


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def with_flat_arguments(function: Implementation, pack: Callable[[Iterator[Any]], Any]) -> Callable[..., Any]:
    """Wrap a function for torch: flat arguments, and an empty tensor for a result that is None."""

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
