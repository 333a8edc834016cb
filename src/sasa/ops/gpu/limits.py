"""The largest sizes that the Triton kernels support."""

from torch import Tensor

MOST_HEAD_CHANNELS = 128  # of local attention: a head's pixels are held in registers
LARGEST_BLOCK, MOST_IMAGE_CHANNELS, MOST_VALUES = 7, 8, 64  # of block attention; value channels of a head


def is_wide(map_BCHW: Tensor) -> bool:
    """Return whether offsets within a group (a head's values, 7 rows, 32 columns) need 64 bits; the kernels use 32."""
    strides = map_BCHW.stride()[1:]
    return sum(size * stride for size, stride in zip((MOST_VALUES, 8, 64), strides, strict=True)) >= 2**31
