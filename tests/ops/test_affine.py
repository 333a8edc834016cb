"""`sasa::affine_`: batch norm in evaluation, shortcut and ReLU in place, against the same in float64."""

import pytest
import torch

from helpers import normal
from sasa.ops import native
from sasa.ops.affine import affine_

SHAPES = [(2, 16, 5, 7), (1, 3, 1, 1), (3, 37, 2, 9), (2, 64, 1, 4), (0, 8, 3, 3), (5, 1, 4, 4)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def laid(tensor, layout):
    return tensor.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else tensor


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("scaled", "added", "relu"), [(True, True, True), (True, False, False), (False, True, True)])
def test_affine(shape, dtype, layout, scaled, added, relu):
    x, residual = (laid(normal(*shape, seed=s, dtype=dtype), layout) for s in (0, 1))
    compute = torch.promote_types(dtype, torch.float32)
    gain, shift = (normal(shape[1], seed=s, dtype=compute) if scaled else None for s in (2, 3))
    want = x.double()
    if gain is not None and shift is not None:
        want = want * gain.double()[:, None, None] + shift.double()[:, None, None]
    want = want + residual.double() if added else want
    want = want.relu() if relu else want
    got = affine_(x, gain, shift, residual if added else None, relu=relu)
    assert got is x
    torch.testing.assert_close(got.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_residual_in_another_layout():
    x, residual = normal(2, 8, 4, 5), laid(normal(2, 8, 4, 5, seed=1), "channels_last")
    want = x + residual
    assert torch.equal(affine_(x, None, None, residual), want)


def test_nan_passes_relu():
    x = torch.full((1, 40, 2, 2), float("nan"))
    assert affine_(x, None, None, relu=True).isnan().all()


@pytest.mark.skipif(native.missing() is not None, reason="plain torch takes any layout")
def test_a_map_with_gaps_is_refused():
    with pytest.raises(RuntimeError, match="dense"):
        affine_(normal(2, 8, 6, 6)[:, :, ::2], None, None)
