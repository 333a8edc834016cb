"""Where the Triton kernels can run, and the largest sizes that they support; this module does not import Triton.

With TRITON_INTERPRET=1 in the environment before Triton is first imported, kernels run in Triton's interpreter, in
numpy, on CPU tensors. Tests use this on machines without a GPU.
"""

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
OLDEST = (8, 0)  # compute capability: bfloat16 on tensor cores begins here
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MOST_HEAD_CHANNELS = 128  # of local attention: a head's pixels are held in registers
LARGEST_BLOCK, MOST_IMAGE_CHANNELS, MOST_VALUES = 7, 8, 64  # of block attention; value channels of a head


@cache
def _no_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    return None


@cache
def _no_device(index: int | None) -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device on this machine"
    if torch.version.hip is not None:
        return "these kernels were written for NVIDIA GPUs, and this torch is built for AMD"
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return "this GPU has compute capability {}.{}, and these kernels need {}.{}".format(*capability, *OLDEST)
    return None


def why_not(query: Tensor | None) -> str | None:
    """Return None if the kernels can run on `query` (None: on this machine at all), else a sentence on the reason."""
    reason = _no_triton()
    if reason is not None:
        return reason
    if query is None:
        return None if INTERPRETED else _no_device(None)
    if query.dtype not in DTYPES:
        return f"query is {query.dtype}, and these kernels know float32, float16 and bfloat16"
    if INTERPRETED and query.device.type == "cpu":
        return None
    if query.device.type != "cuda":
        return f"query is on {query.device}, and these kernels run on CUDA devices"
    return _no_device(query.device.index)


def is_wide(map_BCHW: Tensor) -> bool:
    """Return whether offsets within a group (a head's values, 7 rows, 32 columns) need 64 bits; the kernels use 32."""
    strides = map_BCHW.stride()[1:]
    return sum(size * stride for size, stride in zip((MOST_VALUES, 8, 64), strides, strict=True)) >= 2**31
