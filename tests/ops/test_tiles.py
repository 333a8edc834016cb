"""The CPU kernels on every kind of tile, and `eager` in strips, compared with the reference in float64.

A tile of local attention (csrc/cpu: tiles.h, window.h) is one to three rows high, and a vector or half a vector wide;
windows of 3, 5, 7, 9 and 11 have code of their own, and so have groups of channels and the single ones left over. A
tile of block attention (csrc/cpu/block_tile.h) has a block in each lane. The eager back-ends process large maps in
strips, as many as their budget allows.
"""

import pytest
import torch

from comparison import ALLOCATIONS_ARE_NAN, DTYPES, assert_block_agrees, assert_local_agrees
from helpers import NEEDS_KERNELS, WITHOUT_KERNELS, block_inputs, local_inputs
from sasa.ops import eager, eager_block

pytestmark = ALLOCATIONS_ARE_NAN
WINDOWS = (1, 3, 5, 7, 9, 11, 13)
# Rows of the tiles: 1; 2; 3; 3, 2 and 2. 21 columns are whole vectors and a part that fits into half a one, for any
# instruction set; the part of 29 does not fit in AVX-512.
MAPS = [(1, 21), (2, 21), (3, 21), (7, 21), (7, 29)]
LOCAL_FORMS = [  # terms, padding, memory format
    ("both", "zeros", torch.channels_last),
    ("both", "mask", torch.contiguous_format),
    ("content", "mask", torch.channels_last),
    ("relative", "zeros", torch.contiguous_format),
]
BLOCK_FORMS = [  # terms, values, memory format
    ("both", "weights", torch.contiguous_format),
    ("both", "map", torch.channels_last),
    ("content", "weights", torch.channels_last),
    ("relative", "map", torch.contiguous_format),
]


def laid_out(tensors, memory_format):
    """The same tensors, maps in a memory format."""
    return [t if t is None or t.dim() < 4 else t.contiguous(memory_format=memory_format) for t in tensors]


@NEEDS_KERNELS
@DTYPES
@pytest.mark.parametrize(("terms", "padding", "layout"), LOCAL_FORMS, ids=["both", "mask", "content", "relative"])
@pytest.mark.parametrize("size", MAPS, ids=str)
@pytest.mark.parametrize("kernel_size", WINDOWS)
def test_local_attention(kernel_size, size, terms, padding, layout, dtype):
    """14 and 13 channels: a group of eight or three of four, and a remainder."""
    shape = (1, 1, 14, 13, *size, kernel_size)
    tensors = laid_out(local_inputs(*shape, terms=terms, dtype=dtype), layout)
    assert_local_agrees(tensors, shape, "cpu", terms=terms, padding=padding)


@NEEDS_KERNELS
@pytest.mark.parametrize("kernel_size", [3, 7, 13])
def test_strips_of_local_attention(kernel_size):
    """One head of one image is cut into strips of rows, so that there is work for two threads."""
    shape = (1, 1, 4, 4, 4 * kernel_size + 13, 5, kernel_size)
    assert_local_agrees(local_inputs(*shape, dtype=torch.float32), shape, "cpu")


@NEEDS_KERNELS
@DTYPES
@pytest.mark.parametrize(("terms", "values", "layout"), BLOCK_FORMS, ids=["both", "map", "content", "relative"])
@pytest.mark.parametrize("value_dim", [3, 8])
@pytest.mark.parametrize("blocks", [13, 20])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 7])
def test_block_attention(block_size, blocks, value_dim, terms, values, layout, dtype):
    """20 blocks: a vector and part of half a one in AVX-512; 13 do not fit into half a one. The last is partial."""
    size = (2 * block_size + 1, blocks * block_size - block_size // 2)
    shape = (1, 3, 2, 4, value_dim, *size, block_size)
    tensors = block_inputs(*shape, terms=terms, values=values, dtype=dtype)
    tensors[0], tensors[6] = laid_out([tensors[0], tensors[6]], layout)
    assert_block_agrees(tensors, shape, "cpu", terms=terms, values=values)


# Strips of the eager back-ends


@pytest.fixture
def strips_seen(monkeypatch):
    """Records every strip that a run of `eager` or `eager_block` goes through."""
    seen = []

    def recording(function):
        def strips(*arguments):
            for strip in function(*arguments):
                seen.append(strip)
                yield strip

        return strips

    monkeypatch.setattr(eager.Tiling, "strips", recording(eager.Tiling.strips))
    monkeypatch.setattr(eager_block, "strips", recording(eager_block.strips))
    return seen


def with_budgets(row: int):
    """Budgets for five images of three rows of tiles or blocks, and the number of strips that each allows."""
    cases = {
        "a row": (1, 5 * 3),
        "two rows": (2 * row, 5 * 2),
        "an image": (3 * row, 5),
        "two images": (6 * row, 3),
        "all": (2**20, 1),
    }
    return pytest.mark.parametrize(("budget", "strips"), cases.values(), ids=cases)


# Logits of one row of tiles: 2 heads * 2 tiles * 16 queries * 36 keys = 2304; three rows of tiles.
@WITHOUT_KERNELS
@with_budgets(2304)
@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_local_attention_in_strips(monkeypatch, strips_seen, padding, budget, strips):
    monkeypatch.setattr(eager, "STRIP_LOGITS", {"cpu": budget})
    shape = (5, 2, 4, 3, 11, 7, 3)
    assert_local_agrees(local_inputs(*shape), shape, "eager", padding=padding)
    assert len(strips_seen) == 2 * strips, "once forward, once backward"


# Pixels of one row of blocks: 4 * 7 = 28; three rows of blocks, the last one partial, 77 pixels in an image.
@WITHOUT_KERNELS
@with_budgets(28)
@pytest.mark.parametrize("values", ["weights", "map"])
def test_block_attention_in_strips(monkeypatch, strips_seen, values, budget, strips):
    monkeypatch.setattr(eager_block, "STRIP_PIXELS", {"cpu": budget})
    shape = (5, 3, 2, 4, 3, 11, 7, 4)
    assert_block_agrees(block_inputs(*shape, values=values), shape, "eager", values=values)
    assert len(strips_seen) == 2 * strips, "once forward, once backward"
