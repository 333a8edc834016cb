"""The back-end "cuda": CUDA C++ kernels (csrc/cuda), compiled by NVRTC at first use and launched from C++.

Where the environment variable SASA_GPU is "cuda", the dispatcher ops run them for CUDA tensors, with plain torch for
calls that they do not support. `backend="cuda"` calls separate ops in the namespace `sasa_cuda` instead, regardless of
SASA_GPU, and a call that they do not support is an error.
"""

import torch
from torch import Tensor

from sasa.ops import native
from sasa.ops.arguments import BlockBackward, BlockForward, LocalBackward, LocalForward
from sasa.ops.backends.base import FunctionBackend, Inputs, Options

NAMESPACE = "sasa_cuda"


class CudaBackend(FunctionBackend):
    """CUDA C++ on a GPU."""

    name = "cuda"
    summary = (
        "CUDA C++ kernels for CUDA tensors, compiled at first use; what auto runs there if SASA_GPU is cuda, "
        "with plain torch for calls and GPUs that they do not support"
    )

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """Check for this package's library, NVRTC, a driver and a GPU that NVRTC compiles for."""
        if inputs is None:
            return native.cuda_missing() or _no_device() or native.cuda_missing_on(torch.cuda.current_device())
        device = inputs[0].device
        if device.type != "cuda":
            return native.cuda_missing() or f"{inputs._fields[0]} is on {device}, and these kernels run on CUDA tensors"
        return native.cuda_missing() or native.cuda_missing_on(device.index)

    def local_forward(self, call: LocalForward) -> tuple[Tensor, Tensor]:
        """One kernel."""
        return torch.ops.sasa_cuda.local_attention(*call.inputs, *call.options)

    def local_backward(self, call: LocalBackward) -> tuple[Tensor | None, ...]:
        """Two kernels, queries and tables, keys and values; and sums of the tables' parts."""
        grad_output, inputs, logsumexp, options = call
        grads = torch.ops.sasa_cuda.local_attention_backward(grad_output, *inputs, logsumexp, *options)
        return _only_of_given(grads, inputs)

    def block_forward(self, call: BlockForward) -> tuple[Tensor, Tensor]:
        """Two kernels: weights are folded first."""
        return torch.ops.sasa_cuda.block_attention(*call.inputs, *call.options)

    def block_backward(self, call: BlockBackward) -> tuple[Tensor | None, ...]:
        """Four kernels."""
        grad_output, inputs, logsumexp, options, image_gradient = call
        grads = torch.ops.sasa_cuda.block_attention_backward(grad_output, *inputs, logsumexp, *options, image_gradient)
        image, *others = _only_of_given(grads, inputs)
        return image if image_gradient else None, *others


BACKEND = CudaBackend()


def _no_device() -> str | None:
    return None if torch.cuda.is_available() else "there is no CUDA device on this machine"


def _only_of_given(grads: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor | None, ...]:
    """Replace by None the empty tensors that an op returns as gradients of inputs that are None."""
    return tuple(None if given is None else grad for grad, given in zip(grads, inputs, strict=True))
