"""Tile sizes for the kernels of local attention: a rule for any kernel size.

There is no autotuning: a user's first step compiles one variant of each kernel. The rule comes from instruction counts
of compiled kernels (benchmarks/README.md).
"""

from dataclasses import dataclass
from functools import cache

QUERIES = 16  # of a group: the rows of one tensor-core product

# Keys of a step in half precision for head_dim up to 16, 32 and 64, where the channels of a pixel lie side by side.
KEYS_AT_ONCE = {"forward": (128, 64, 32), "queries": (128, 64, 16), "keys": (32, 32, 16)}
KEYS_AT_ONCE_BEFORE_HOPPER = KEYS_AT_ONCE | {"queries": (64, 32, 16)}
# Where they do not, every channel of a pixel has an address of its own in the registers.
KEYS_AT_ONCE_APART = {"forward": (64, 64, 32), "queries": (64, 64, 32), "keys": (32, 16, 16)}
KEYS_AT_ONCE_APART_BEFORE_HOPPER = KEYS_AT_ONCE_APART | {"queries": (64, 16, 32)}
KEYS_AT_ONCE_WIDE = 16  # in float32, or of more channels

# Groups and warps of a program for head_dim up to 16, 32, and more. Its groups share the keys around them through the
# L1 cache; several warps to a group share what the registers hold.
TOGETHER = ((4, 4), (4, 4), (4, 4))
APART = ((2, 4), (2, 4), (2, 8))
WIDE = ((4, 8), (2, 8), (1, 8))  # in float32, or of more than 64 channels


@dataclass(frozen=True)
class TileSizes:
    """Tile sizes of a kernel; local_tile.py explains the symbols."""

    tile: tuple[int, int]  # TH, TW: queries of a group
    columns: int  # CW, of keys
    rows: int  # RS, of keys in a step
    steps: int
    heads: int  # GN, of a program
    across: int  # GT, groups side by side
    num_warps: int
    num_stages: int
    single: bool = False  # one image a program: values kept across a loop over images cost registers


def power_of_two(x: int) -> int:
    """The smallest power of two >= x."""
    return 1 << (x - 1).bit_length()


@cache
def tiling(
    kernel: str, head_dim: int, kernel_size: int, itemsize: int, architecture: int, apart: bool = False
) -> TileSizes:
    """Return the tile with the fewest keys, in as few steps as registers allow.

    Args:
        kernel: "forward", "queries" or "keys".
        head_dim: the larger one of q's and v's.
        kernel_size: K.
        itemsize: bytes of an element.
        architecture: compute capability, 90 for Hopper.
        apart: whether the channels of a pixel lie apart in some map, as in contiguous ones.
    """
    wide = itemsize == 4 or head_dim > 64
    most = KEYS_AT_ONCE_WIDE if wide else _keys_at_once(kernel, head_dim, architecture, apart)
    width, columns, rows, steps = min(
        (_cut(width, kernel_size, most) for width in (1, 2, 4, 8, 16)),
        key=lambda cut: (cut[1] * cut[2] * cut[3], abs(cut[0] - 3)),  # then the squarest: 2 or 4 wide
    )
    groups, warps = (WIDE if wide else APART if apart else TOGETHER)[_size(head_dim)]
    heads = 2 if head_dim <= 8 else 1  # two heads fill the 32 bytes that memory is read by
    # Otherwise there are no registers for it, and single elements are not prefetched.
    ahead = 2 if kernel == "forward" and head_dim <= 16 and itemsize == 2 and not apart else 1
    single = kernel == "queries" and head_dim > 32  # their maps are small: images have little to share
    return TileSizes((QUERIES // width, width), columns, rows, steps, heads, groups // heads, warps, ahead, single)


def _keys_at_once(kernel: str, head_dim: int, architecture: int, apart: bool) -> int:
    """Return the number of keys of a step, few enough that they and the channels of a head hardly spill registers.

    This holds for Triton 3.6 and 3.9, whose compilers need different numbers of registers for the same kernel.
    """
    if architecture >= 90:
        table = KEYS_AT_ONCE_APART if apart else KEYS_AT_ONCE
    else:
        table = KEYS_AT_ONCE_APART_BEFORE_HOPPER if apart else KEYS_AT_ONCE_BEFORE_HOPPER
    return table[kernel][_size(head_dim)]


def _size(head_dim: int) -> int:
    """0, 1, 2 for head_dim up to 16, 32, and wider."""
    return (head_dim > 16) + (head_dim > 32)


def _cut(width: int, kernel_size: int, most: int) -> tuple[int, int, int, int]:
    """TW, CW, RS and steps for tiles of this width."""
    columns = power_of_two(width + kernel_size - 1)
    keys_high = QUERIES // width + kernel_size - 1
    rows = min(power_of_two(keys_high), max(1, most // columns, 16 // columns))
    return width, columns, rows, -(-keys_high // rows)
