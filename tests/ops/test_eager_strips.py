"""The eager back-ends process large maps in strips, as many as the budget allows, with the same results."""

import pytest

from comparison import ALLOCATIONS_ARE_NAN, assert_block_agrees, assert_local_agrees
from helpers import WITHOUT_KERNELS, block_inputs, local_inputs
from sasa.ops import eager, eager_block

pytestmark = [*ALLOCATIONS_ARE_NAN, WITHOUT_KERNELS]


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


# Logits of one row of tiles: 2 heads * 2 tiles * 16 queries * 36 keys = 2304; three rows of tiles.
@pytest.mark.parametrize(
    ("budget", "strips"),
    [(1, 5 * 3), (2 * 2304, 5 * 2), (3 * 2304, 5), (2 * 3 * 2304, 3), (2**20, 1)],
    ids=["a row of tiles", "two rows", "an image", "two images", "all"],
)
@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_local_attention_in_strips(monkeypatch, strips_seen, padding, budget, strips):
    monkeypatch.setattr(eager, "STRIP_LOGITS", {"cpu": budget})
    shape = (5, 2, 4, 3, 11, 7, 3)
    assert_local_agrees(local_inputs(*shape), shape, "eager", padding=padding)
    assert len(strips_seen) == 2 * strips, "once forward, once backward"


# Pixels of one row of blocks: 4 * 7 = 28; three rows of blocks, the last one partial, 77 pixels in an image.
@pytest.mark.parametrize(
    ("budget", "strips"),
    [(1, 5 * 3), (2 * 28, 5 * 2), (3 * 28, 5), (2 * 3 * 28, 3), (2**20, 1)],
    ids=["a row of blocks", "two rows", "an image", "two images", "all"],
)
@pytest.mark.parametrize("values", ["weights", "map"])
def test_block_attention_in_strips(monkeypatch, strips_seen, values, budget, strips):
    monkeypatch.setattr(eager_block, "STRIP_PIXELS", {"cpu": budget})
    shape = (5, 3, 2, 4, 3, 11, 7, 4)
    assert_block_agrees(block_inputs(*shape, values=values), shape, "eager", values=values)
    assert len(strips_seen) == 2 * strips, "once forward, once backward"
