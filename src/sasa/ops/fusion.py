"""Rules for when an operator of this package may be called, and when a fused one may replace several modules.

A fused operator skips modules: their hooks do not run, and the maps between them are never written, or are overwritten.
It is used only where the result is the same.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active, _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from sasa.ops import native
from sasa.ops.checks import has_tangent

# Device types with fused kernels, and for each a function that says why this process has none.
FUSING = {"cpu": native.missing, "cuda": native.cuda_not_chosen}
WITHOUT_GRADIENT = {"affine_", "qkv_attention_inference", "mkldnn_convolution"}
# Without a CUDA kernel; compilers get torch's operations.
CPU_EAGER = {"affine_", "norm_relu", "pointwise_gradient", "mkldnn_convolution"}
DIFFERENTIATING = {_functorch.TransformType.Grad, _functorch.TransformType.Jvp}


def may_fuse(operator: str, x: Tensor, *modules: nn.Module) -> bool:
    """Return whether `sasa::operator` may replace calls of `modules` and the operations between them.

    Args:
        operator: name without the namespace; or torch's own "mkldnn_convolution".
        x: the input map; a proxy of a trace is not a map.
        modules: those that would not be called, or would be called with a part of the batch.
    """
    if not isinstance(x, Tensor) or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False  # a trace must record the general form, which is valid for every later input
    if operator in WITHOUT_GRADIENT and torch.is_grad_enabled():
        return False
    if operator in CPU_EAGER and (torch.compiler.is_compiling() or x.device.type != "cpu"):
        return False
    missing = FUSING.get(x.device.type)
    return missing is not None and missing() is None and not is_watched(*modules) and not is_transforming()


def is_watched(*modules: nn.Module) -> bool:
    """Return whether a hook or a replaced `forward` observes the input or output of one of the modules."""
    return bool(_has_any_global_hook()) or any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        for module in modules
    )


def needs_reference(inputs: Iterable[Tensor | None]) -> bool:
    """Return whether only the reference can take these inputs, because torch must differentiate inside the operator.

    This is the case under torch.func's grad, vjp, jvp and functions built on them, and for inputs with a forward-mode
    tangent: the dispatcher ops have a reverse-mode gradient only. Second derivatives (`create_graph=True`) do not need
    the reference in the forward pass: the backward op handles them (`sasa.ops.gradients.SecondGradient`).
    """
    if not is_transforming():
        return False
    levels = _functorch.get_interpreter_stack() or ()
    return any(level.key() in DIFFERENTIATING for level in levels) or any(map(has_tangent, inputs))


def is_eager() -> bool:
    """Return whether an operator runs where it is called: nothing compiles, traces, transforms or records the call."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return not (recorded or is_transforming() or torch._C._len_torch_dispatch_stack())


def is_transforming() -> bool:
    """Return whether a transform of torch.func (vmap included) or forward-mode differentiation is active."""
    if torch.compiler.is_compiling():
        return False
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0
