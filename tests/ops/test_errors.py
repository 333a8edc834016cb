"""Every argument error of the operators is one sentence that quotes the values."""

import pytest
import torch

from helpers import WITHOUT_KERNELS, argument_error, normal
from sasa.errors import SasaError
from sasa.ops import block_attention, local_attention
from sasa.ops.backends import BACKENDS, BackendStatus, backends, check_backend
from sasa.ops.backends.base import Backend
from sasa.ops.checks import check_heads, check_padding

pytestmark = WITHOUT_KERNELS  # arguments are checked before they are called


def local(**changes):
    """`local_attention` of valid arguments with some changes."""
    arguments = {
        "query": normal(2, 8, 5, 6),
        "key": normal(2, 8, 5, 6),
        "value": normal(2, 12, 5, 6),
        "rel_row": normal(4, 3, 1),
        "rel_col": normal(4, 3, 1),
        "kernel_size": 3,
        "num_heads": 4,
    }
    return local_attention(**{**arguments, **changes})


LOCAL_ERRORS = [
    ({"kernel_size": 4}, "kernel_size (4) must be odd: the window is centred on its query pixel; use 3 or 5"),
    ({"kernel_size": 0}, "kernel_size must be a positive odd integer, got 0"),
    ({"kernel_size": -3}, "kernel_size must be a positive odd integer, got -3"),
    ({"kernel_size": 3.0}, "kernel_size must be a positive odd integer, got 3.0"),
    ({"kernel_size": True}, "kernel_size must be a positive odd integer, got True"),
    ({"padding": "reflect"}, 'padding must be "zeros" or "mask", got \'reflect\''),
    ({"padding": None}, 'padding must be "zeros" or "mask", got None'),
    ({"padding": True}, 'padding must be "zeros" or "mask", got True'),
    (
        {"padding": 1},
        "padding (1) is not a number of pixels here: attention always keeps the size of its map; leave padding out, "
        'or choose "zeros" (keys outside are zero vectors) or "mask" (no keys outside)',
    ),
    ({"num_heads": 0}, "num_heads must be a positive integer, got 0"),
    ({"num_heads": 2.0}, "num_heads must be a positive integer, got 2.0"),
    ({"num_heads": 3}, "query channels (8) must be divisible by num_heads (3)"),
    ({"value": normal(2, 10, 5, 6)}, "value channels (10) must be divisible by num_heads (4)"),
    (
        {"num_heads": 8, "value": normal(2, 8, 5, 6)},
        "relative positions need an even number of channels in each head, half for rows and half for columns: "
        "query channels (8) over num_heads (8) gives 1",
    ),
    ({"query": normal(8, 5, 6)}, "query must be (batch, channels, height, width), got (8, 5, 6)"),
    ({"key": normal(2, 8, 30)}, "key must be (batch, channels, height, width), got (2, 8, 30)"),
    ({"value": normal(2, 8)}, "value must be (batch, channels, height, width), got (2, 8)"),
    (
        {name: torch.zeros(2, 8, 0, 6) for name in ("query", "key", "value")},
        "the map must have at least one pixel, got (2, 8, 0, 6)",
    ),
    (
        {name: torch.zeros(2, 8, 5, 0) for name in ("query", "key", "value")},
        "the map must have at least one pixel, got (2, 8, 5, 0)",
    ),
    ({"key": normal(2, 8, 6, 5)}, "key (2, 8, 6, 5) must have the shape of query (2, 8, 5, 6)"),
    (
        {"value": normal(1, 8, 5, 6)},
        "value (1, 8, 5, 6) must have the batch, height and width of query (2, 8, 5, 6)",
    ),
    ({"query": torch.ones(2, 8, 5, 6).long()}, "query must be floating point, got torch.int64"),
    ({"key": torch.ones(2, 8, 5, 6)}, "key (torch.float32) must have the dtype of query (torch.float64)"),
    ({"value": torch.ones(2, 8, 5, 6)}, "value (torch.float32) must have the dtype of query (torch.float64)"),
    ({"value": normal(2, 8, 5, 6, device="meta")}, "value (meta) must be on the device of query (cpu)"),
    ({"key": None}, "key is None with content=True: give a key, or leave q.k out with content=False"),
    ({"content": False}, "key is given with content=False, which leaves q.k out: key must be None"),
    (
        {"content": False, "key": None, "rel_row": None, "rel_col": None},
        "content=False needs relative embeddings: without q.k and q.r there are no logits",
    ),
    ({"rel_row": None}, "rel_row and rel_col go together: give both or neither"),
    ({"rel_col": None}, "rel_row and rel_col go together: give both or neither"),
    ({"rel_row": normal(4, 5, 1)}, "rel_row (4, 5, 1) must be (num_heads, offsets, head_dim / 2) = (4, 3, 1)"),
    ({"rel_col": normal(4, 3, 2)}, "rel_col (4, 3, 2) must be (num_heads, offsets, head_dim / 2) = (4, 3, 1)"),
    ({"rel_col": normal(3, 1)}, "rel_col (3, 1) must be (num_heads, offsets, head_dim / 2) = (4, 3, 1)"),
    (
        {"rel_row": normal(4, 3, 1).half()},
        "rel_row (torch.float16) must be float32 or have the query's dtype (torch.float64)",
    ),
    ({"rel_col": normal(4, 3, 1, device="meta")}, "rel_col (meta) must be on the query's device (cpu)"),
    ({"backend": "cudnn"}, f"backend must be one of auto, {', '.join(BACKENDS)}; got 'cudnn'"),
]


@pytest.mark.parametrize(("changes", "sentence"), LOCAL_ERRORS, ids=[s[:40] for _, s in LOCAL_ERRORS])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_local_attention(backend, changes, sentence):
    with argument_error(sentence):
        local(**{"backend": backend, **changes})


def test_the_arguments_that_the_changes_start_from_are_right():
    assert local().shape == (2, 12, 5, 6)
    assert block().shape == (2, 12, 5, 6)


def block(**changes):
    """`block_attention` of valid arguments with some changes."""
    arguments = {
        "image": normal(2, 3, 5, 6),
        "w_query": normal(8, 3),
        "w_key": normal(8, 3),
        "w_value": normal(4, 12, 3),
        "rel_row": normal(4, 3, 1),
        "rel_col": normal(4, 3, 1),
        "block_size": 2,
        "num_heads": 4,
    }
    return block_attention(**{**arguments, **changes})


GIVE_VALUES_ONCE = "give either w_value (a matrix for each position) or value (a map), and not both"
BLOCK_ERRORS = [
    ({"block_size": 0}, "block_size must be a positive integer, got 0"),
    ({"block_size": 2.0}, "block_size must be a positive integer, got 2.0"),
    ({"image": normal(3, 5, 6)}, "image must be (batch, channels, height, width), got (3, 5, 6)"),
    ({"image": torch.zeros(2, 3, 0, 6)}, "image must be (batch, channels, height, width), got (2, 3, 0, 6)"),
    ({"image": torch.zeros(2, 3, 5, 0)}, "image must be (batch, channels, height, width), got (2, 3, 5, 0)"),
    ({"image": torch.ones(2, 3, 5, 6).int()}, "image must be floating point, got torch.int32"),
    ({"w_query": torch.ones(8, 3)}, "w_query (torch.float32) must have the dtype of image (torch.float64)"),
    ({"w_value": torch.ones(4, 12, 3)}, "w_value (torch.float32) must have the dtype of image (torch.float64)"),
    ({"w_key": normal(8, 3, device="meta")}, "w_key (meta) must be on the device of image (cpu)"),
    ({"w_key": None}, "w_key is None and content is True: give both or neither"),
    ({"content": False}, "w_key is given and content is False: give both or neither"),
    (
        {"content": False, "w_key": None, "rel_row": None, "rel_col": None},
        "content=False needs relative embeddings: without q.k and q.r there are no logits",
    ),
    ({"w_query": normal(8, 4)}, "w_query (8, 4) must be (out channels, image channels) = (8, 3)"),
    ({"w_query": normal(8, 3, 1)}, "w_query (8, 3, 1) must be (out channels, image channels) = (8, 3)"),
    ({"w_key": normal(4, 3)}, "w_key (4, 3) must be (out channels, image channels) = (8, 3)"),
    ({"num_heads": 3}, "query channels (8) must be divisible by num_heads (3)"),
    ({"w_value": normal(4, 10, 3)}, "value channels (10) must be divisible by num_heads (4)"),
    ({"w_value": None, "value": normal(2, 10, 5, 6)}, "value channels (10) must be divisible by num_heads (4)"),
    (
        {"num_heads": 8, "w_value": normal(4, 8, 3)},
        "relative positions need an even number of channels in each head, half for rows and half for columns: "
        "query channels (8) over num_heads (8) gives 1",
    ),
    ({"w_value": None}, GIVE_VALUES_ONCE),
    ({"value": normal(2, 12, 5, 6)}, GIVE_VALUES_ONCE),
    (
        {"w_value": normal(9, 12, 3)},
        "w_value (9, 12, 3) must be (block_size ** 2 = 4, out channels, image channels = 3)",
    ),
    ({"w_value": normal(12, 3)}, "w_value (12, 3) must be (block_size ** 2 = 4, out channels, image channels = 3)"),
    (
        {"w_value": None, "value": normal(2, 12, 6, 5)},
        "value (2, 12, 6, 5) must have the batch, height and width of image (2, 3, 5, 6)",
    ),
    (
        {"w_value": None, "value": normal(12, 5, 6)},
        "value (12, 5, 6) must have the batch, height and width of image (2, 3, 5, 6)",
    ),
    ({"rel_row": None}, "rel_row and rel_col go together: give both or neither"),
    ({"rel_row": normal(4, 2, 1)}, "rel_row (4, 2, 1) must be (num_heads, offsets, head_dim / 2) = (4, 3, 1)"),
    ({"backend": "flash"}, f"backend must be one of auto, {', '.join(BACKENDS)}; got 'flash'"),
]


@pytest.mark.parametrize(("changes", "sentence"), BLOCK_ERRORS, ids=[s[:40] for _, s in BLOCK_ERRORS])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_block_attention(backend, changes, sentence):
    with argument_error(sentence):
        block(**{"backend": backend, **changes})


def test_an_argument_error_is_a_value_error_and_a_sasa_error():
    with pytest.raises(ValueError, match="must be odd"):
        local(kernel_size=2)
    with pytest.raises(SasaError) as caught:
        local(kernel_size=2)
    assert caught.value.exit_status == 1


def test_checks_take_the_name_of_what_they_check():
    with argument_error("out_channels (10) must be divisible by num_heads (4)"):
        check_heads(10, 4, "out_channels", relative=False)
    with argument_error(
        "padding ((3, 3)) is not a number of pixels here: attention always keeps the size of its map; leave padding "
        'out, or choose "zeros" (keys outside are zero vectors) or "mask" (no keys outside)'
    ):
        check_padding((3, 3))


class Sick(Backend):
    name, summary = "sick", "runs nowhere"

    def why_not(self, inputs=None, options=None):
        return "it has a cold"

    def attend(self, calls, inputs, options):
        raise AssertionError("it cannot run")


@pytest.fixture
def sick_backend(monkeypatch):
    """A back-end that cannot run, with its reason."""
    monkeypatch.setitem(BACKENDS, "sick", Sick())


@pytest.mark.usefixtures("sick_backend")
@pytest.mark.parametrize("function", [local, block])
def test_a_backend_that_cannot_run_says_why(function):
    with argument_error("backend 'sick' cannot run here: it has a cold"):
        function(backend="sick")


@pytest.mark.usefixtures("sick_backend")
def test_backends_gives_the_same_reason():
    assert BackendStatus("sick", "runs nowhere", "it has a cold") in backends()
    assert str(backends()[-1]) == "sick: runs nowhere (not here: it has a cold)"


def test_backends_lists_the_registry():
    assert [status.name for status in backends()] == list(BACKENDS)
    running = {status.name: status for status in backends() if status.why_not is None}
    assert {"reference", "eager"} <= set(running)
    assert str(running["eager"]) == f"eager: {BACKENDS['eager'].summary}"


def test_auto_needs_no_backend_of_that_name():
    check_backend("auto")
    assert "auto" not in BACKENDS
