"""The interface of a back-end (a predicate and the operators), and a base class that provides gradients."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sasa.ops.arguments import BlockInputs, BlockOptions, Calls, LocalInputs, LocalOptions
from sasa.ops.call import call_op
from sasa.ops.checks import check_no_forward_mode
from sasa.ops.precision import without_autocast
from sasa.ops.register import Functions

Inputs = LocalInputs | BlockInputs
Options = LocalOptions | BlockOptions


class Backend(ABC):
    """Interface of an implementation of the operators."""

    name: str
    summary: str

    @abstractmethod
    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """Return None if the back-end can run such a call, else a sentence that says why it cannot.

        The only predicate: explicit requests, `sasa.backends()` and the choice of "auto" all use it.

        Args:
            inputs: of the call; None asks about this machine.
            options: of the call.
        """

    @abstractmethod
    def attend(self, calls: Calls, inputs: Inputs, options: Options) -> Tensor:
        """Compute Eq. 3 or, for `BLOCK`, Eq. 7-8 with relative positions: (B, N * E, H, W), differentiable."""


def dispatch(calls: Calls, inputs: NamedTuple, options: NamedTuple) -> Tensor:
    """Call the dispatcher op: it runs the kernel of the device of the inputs, or plain torch where there is none."""
    with without_autocast(inputs[0].device):
        return call_op(calls.name, *inputs, *options)[0]


class FunctionBackend(Backend):
    """A back-end that has functions for each operator; the dispatcher ops may call the same ones."""

    @abstractmethod
    def functions(self, name: str) -> Functions:
        """Return the functions of the operator "local_attention" or "block_attention"."""

    def attend(self, calls: Calls, inputs: Inputs, options: Options) -> Tensor:
        """The operator's `forward`, with `backward` as its gradient."""
        check_no_forward_mode(inputs)
        return _Attention.apply(calls, self.functions(calls.name), options, *inputs)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, calls: Calls, functions: Functions, options: Options, *inputs: Any) -> Tensor:
        output, logsumexp = functions.forward(calls.forward(calls.inputs(*inputs), options))
        ctx.save_for_backward(*inputs, logsumexp)
        ctx.operator = calls, functions, options
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        kept = ctx.saved_tensors
        return None, None, None, *_Gradients.apply(*ctx.operator, ctx.needs_input_grad[3], *grads, *kept)


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, calls: Calls, functions: Functions, options: Options, first: bool, grad_output: Tensor, *kept: Any
    ) -> Any:
        ctx.name = calls.name
        *inputs, logsumexp = kept
        return functions.backward(calls.gradient(grad_output, calls.inputs(*inputs), logsumexp, options, first))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            f'sasa::{ctx.name} has no second derivative; backend="reference" is differentiable to any order'
        )
