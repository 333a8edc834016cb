"""Precision of arithmetic, float32 or better under autocast too, and memory layout of results."""

import contextlib

import torch
from torch import Tensor

# Computed once, at import: torch 2.11 cannot compile the call.
AUTOCAST_DEVICES = tuple(kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind))


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of arithmetic on the tensor: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Context that turns autocast off inside an implementation, where it would round products."""
    if device.type in AUTOCAST_DEVICES and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def autocast_to(device: torch.device, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Convert the tensors to autocast's dtype if autocast is on for the device; not float64 or integers, as torch."""
    if not (device.type in AUTOCAST_DEVICES and torch.is_autocast_enabled(device.type)):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    rounded = (torch.float32, torch.float16, torch.bfloat16)
    return tuple(t.to(dtype) if t is not None and t.dtype in rounded else t for t in tensors)


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether a pixel's channels are adjacent in memory, as in a channels_last map or a slice of channels."""
    return tensor.shape[1] > 1 and tensor.stride(1) == 1 and not tensor.is_contiguous()


def is_rows(map_BCHW: Tensor) -> bool:
    """Return whether a map is float32, dense, channels_last and not empty, as some kernels need it."""
    return (
        map_BCHW.dtype == torch.float32
        and map_BCHW.dim() == 4
        and map_BCHW.numel() > 0
        and is_channels_last(map_BCHW)
        and map_BCHW.is_contiguous(memory_format=torch.channels_last)
    )


def empty_map(
    like: Tensor, channels: int, dtype: torch.dtype | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """An uninitialised (B, channels, H, W) map, dense, in the layout (and by default the dtype, H and W) of `like`."""
    batch = like.shape[0]
    height, width = size or like.shape[2:]
    if not is_channels_last(like):
        return like.new_empty((batch, channels, height, width), dtype=dtype)
    return like.new_empty((batch, height, width, channels), dtype=dtype).permute(0, 3, 1, 2)


def in_layout_of(like: Tensor, map_BCHW: Tensor) -> Tensor:
    """A copy of the map as `empty_map` lays it out; differentiable, also under torch.func."""
    if not is_channels_last(like):
        return map_BCHW.clone(memory_format=torch.contiguous_format)
    return map_BCHW.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
