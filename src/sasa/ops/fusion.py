"""When one fused operator may stand for modules that are called one after the other: the predicate that layers ask.

A fused operator passes modules by: their hooks do not run, the maps between them do not exist or are written over. It
may stand for them where that changes nothing but the time.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from sasa.ops import native

# Device types with kernels that fuse, and for each the reason why there are none in this process.
FUSING = {"cpu": native.missing, "cuda": native.cuda_not_chosen}
WITHOUT_GRADIENT = {"affine_", "qkv_attention_inference"}
POINTWISE = {"affine_", "norm_relu"}  # what a compiler fuses by itself, and no CUDA kernel does


def may_fuse(operator: str, x: Tensor, *modules: nn.Module) -> bool:
    """Whether `sasa::operator` may stand for calls of `modules` and what lies between them.

    Args:
        operator: its name, without the namespace.
        x: the map that goes in; a trace's stand-in for one is no map.
        modules: those that would not be called, or called with something else than the whole batch.
    """
    if not isinstance(x, Tensor) or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False  # a trace shall hold the general form, which serves every later input
    if operator in WITHOUT_GRADIENT and torch.is_grad_enabled():
        return False
    if operator in POINTWISE and (torch.compiler.is_compiling() or x.device.type != "cpu"):
        return False
    missing = FUSING.get(x.device.type)
    return missing is not None and missing() is None and not is_watched(*modules)


def is_watched(*modules: nn.Module) -> bool:
    """Whether anybody waits for what goes into or comes out of one of the modules: a hook, or a forward put in."""
    return bool(_has_any_global_hook()) or any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        for module in modules
    )
