"""The interface of a back-end (a predicate and two operators), and two base classes that provide gradients."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sasa.ops.arguments import (
    BlockBackward,
    BlockForward,
    BlockInputs,
    BlockOptions,
    LocalBackward,
    LocalForward,
    LocalInputs,
    LocalOptions,
)
from sasa.ops.checks import check_no_forward_mode
from sasa.ops.precision import without_autocast
from sasa.ops.register import has_kernel

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
    def local_attention(self, inputs: LocalInputs, options: LocalOptions) -> Tensor:
        """Eq. 3: (B, N * E, H, W), differentiable."""

    @abstractmethod
    def block_attention(self, inputs: BlockInputs, options: BlockOptions) -> Tensor:
        """Eq. 7-8 with relative positions: (B, N * E, H, W), differentiable."""


class DispatcherBackend(Backend):
    """A back-end whose kernels a library registers with the dispatcher, for tensors of one type of device."""

    device_type: str
    dispatch_key: str

    @abstractmethod
    def missing(self) -> str | None:
        """Return None if the library is loaded and runs on this machine, else a sentence that says why not."""

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """Accept every call on the kernels' device; without kernels the dispatcher would fall back to plain torch."""
        if inputs is not None and inputs[0].device.type != self.device_type:
            name, device = inputs._fields[0], inputs[0].device
            return f"{name} is on {device}, and these kernels run on {self.device_type.upper()} tensors"
        reason = self.missing()
        if reason is None and not self._is_registered:
            return f"the library has registered no kernels for {self.dispatch_key} tensors"
        return reason

    @cached_property
    def _is_registered(self) -> bool:
        return has_kernel("local_attention", self.dispatch_key)

    def local_attention(self, inputs: LocalInputs, options: LocalOptions) -> Tensor:
        """The dispatcher op."""
        check_no_forward_mode(inputs)
        with without_autocast(inputs.query.device):
            return torch.ops.sasa.local_attention(*inputs, *options)[0]

    def block_attention(self, inputs: BlockInputs, options: BlockOptions) -> Tensor:
        """The dispatcher op."""
        check_no_forward_mode(inputs)
        with without_autocast(inputs.image.device):
            return torch.ops.sasa.block_attention(*inputs, *options)[0]


class FunctionBackend(Backend):
    """A back-end of four functions, forward and backward; the dispatcher ops may call the same ones."""

    @abstractmethod
    def local_forward(self, call: LocalForward) -> tuple[Tensor, Tensor]:
        """Output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""

    @abstractmethod
    def local_backward(self, call: LocalBackward) -> tuple[Tensor | None, ...]:
        """Return a gradient for each input, None where the input was None."""

    @abstractmethod
    def block_forward(self, call: BlockForward) -> tuple[Tensor, Tensor]:
        """Output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""

    @abstractmethod
    def block_backward(self, call: BlockBackward) -> tuple[Tensor | None, ...]:
        """Return a gradient for each input; None where the input was None, and for an image that needs no gradient."""

    def local_attention(self, inputs: LocalInputs, options: LocalOptions) -> Tensor:
        """`local_forward` with `local_backward` as its gradient."""
        check_no_forward_mode(inputs)
        return _Local.apply(self, options, *inputs)

    def block_attention(self, inputs: BlockInputs, options: BlockOptions) -> Tensor:
        """`block_forward` with `block_backward` as its gradient."""
        check_no_forward_mode(inputs)
        return _Block.apply(self, options, *inputs)


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: FunctionBackend, options: LocalOptions, *inputs: Any) -> Tensor:
        output, logsumexp = backend.local_forward(LocalForward(LocalInputs(*inputs), options))
        ctx.save_for_backward(*inputs, logsumexp)
        ctx.backend, ctx.options = backend, options
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        *inputs, logsumexp = ctx.saved_tensors
        given = (grads[0], *inputs, logsumexp)
        return None, None, *_LocalBackward.apply(ctx.backend, ctx.options, *given)


class _LocalBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: FunctionBackend, options: LocalOptions, grad_output: Tensor, *kept: Any) -> Any:
        *inputs, logsumexp = kept
        return backend.local_backward(LocalBackward(grad_output, LocalInputs(*inputs), logsumexp, options))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(no_second_derivative("local_attention"))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: FunctionBackend, options: BlockOptions, *inputs: Any) -> Tensor:
        output, logsumexp = backend.block_forward(BlockForward(BlockInputs(*inputs), options))
        ctx.save_for_backward(*inputs, logsumexp)
        ctx.backend, ctx.options = backend, options
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        *inputs, logsumexp = ctx.saved_tensors
        given = (ctx.needs_input_grad[2], grads[0], *inputs, logsumexp)
        return None, None, *_BlockBackward.apply(ctx.backend, ctx.options, *given)


class _BlockBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: FunctionBackend, options: BlockOptions, image_gradient: bool, grad_output: Tensor, *kept: Any
    ) -> Any:
        *inputs, logsumexp = kept
        call = BlockBackward(grad_output, BlockInputs(*inputs), logsumexp, options, image_gradient)
        return backend.block_backward(call)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(no_second_derivative("block_attention"))


def no_second_derivative(name: str) -> str:
    """Return the message for an op whose gradient cannot be differentiated again."""
    return f'sasa::{name} has no second derivative; backend="reference" is differentiable to any order'
