"""The back-end "cuda": CUDA C++ kernels (csrc/cuda), compiled by NVRTC at first use and launched from C++.

Where the environment variable SASA_GPU is "cuda", the dispatcher ops run them for CUDA tensors, with plain torch for
calls that they do not support. `backend="cuda"` calls separate ops in the namespace `sasa_cuda` instead, regardless of
SASA_GPU, and a call that they do not support is an error.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sasa.ops import native
from sasa.ops.arguments import BackwardCall, BlockBackward, ForwardCall
from sasa.ops.backends.base import FunctionBackend, Inputs, Options
from sasa.ops.register import flatten

NAMESPACE = "sasa_cuda"


class CudaOp(NamedTuple):
    """An op of `NAMESPACE`, and the op of its gradients."""

    name: str

    def forward(self, call: ForwardCall) -> tuple[Tensor, Tensor]:
        """Local attention is one kernel, block attention two: the weights are folded first."""
        return getattr(torch.ops.sasa_cuda, self.name)(*flatten(call))

    def backward(self, call: BackwardCall) -> tuple[Tensor | None, ...]:
        """Launch the kernels, and replace by None the empty tensors that the op returns for gradients it lacks."""
        grads = getattr(torch.ops.sasa_cuda, f"{self.name}_backward")(*flatten(call))
        first, *others = (None if like is None else grad for grad, like in zip(grads, call.inputs, strict=True))
        unneeded = isinstance(call, BlockBackward) and not call.image_gradient
        return None if unneeded else first, *others


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

    def functions(self, name: str) -> CudaOp:
        """The ops of `NAMESPACE`."""
        return CudaOp(name)


BACKEND = CudaBackend()


def _no_device() -> str | None:
    return None if torch.cuda.is_available() else "there is no CUDA device on this machine"
