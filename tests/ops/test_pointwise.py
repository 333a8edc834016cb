"""`sasa::pointwise_gradient`, kernel and plain torch, compared with the product in float64."""

import pytest
import torch

from helpers import NEEDS_KERNELS, WITHOUT_KERNELS
from helpers import normal as normal_in
from sasa.ops.pointwise import PointwiseGradient, _gradient

# (B, O, I, H, W): whole tiles and borders in both directions, a chunk of pixels and less, several parts of the pixels.
SHAPES = [
    (2, 64, 32, 7, 9),
    (1, 24, 64, 16, 17),
    (3, 37, 5, 4, 4),
    (2, 7, 200, 3, 1),
    (1, 300, 70, 2, 3),
    (2, 13, 33, 40, 55),
    (5, 1, 2, 1, 1),
]


def maps(shape):
    batch, out_channels, in_channels, *sides = shape
    return tuple(
        normal_in(batch, channels, *sides, seed=seed, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
        for seed, channels in enumerate((out_channels, in_channels))
    )


def assert_near_the_product(got, grad, x):
    want = torch.einsum("bohw,bihw->oi", grad.double(), x.double())
    assert got.shape == (*want.shape, 1, 1)
    assert (got[:, :, 0, 0].double() - want).norm() < 1e-6 * want.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product(shape):
    assert_near_the_product(torch.ops.sasa.pointwise_gradient(*maps(shape)), *maps(shape))


@WITHOUT_KERNELS
def test_in_plain_torch():
    assert_near_the_product(_gradient(PointwiseGradient(*maps(SHAPES[0]))), *maps(SHAPES[0]))


@NEEDS_KERNELS
@pytest.mark.parametrize("shape", [(2, 13, 33, 40, 55), (1, 300, 270, 3, 5)], ids=str)
def test_threads_do_not_change_it(shape):
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(torch.ops.sasa.pointwise_gradient(*maps(shape)))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_no_pixels():
    empty = (torch.empty(0, channels, 4, 4).to(memory_format=torch.channels_last) for channels in (3, 5))
    assert torch.equal(torch.ops.sasa.pointwise_gradient(*empty), torch.zeros(3, 5, 1, 1))


def test_opcheck():
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.sasa.pointwise_gradient.default, maps(SHAPES[0]), test_utils=tests)


@NEEDS_KERNELS
def test_other_layouts_and_shapes_are_refused():
    grad, x = maps(SHAPES[0])
    with pytest.raises(RuntimeError, match="grad must be dense and channels_last"):
        torch.ops.sasa.pointwise_gradient(grad.contiguous(), x)
    with pytest.raises(RuntimeError, match="x must be dense and channels_last"):
        torch.ops.sasa.pointwise_gradient(grad, x[:, ::2])
    with pytest.raises(RuntimeError, match="grad does not fit"):
        torch.ops.sasa.pointwise_gradient(grad[:1], x)
    with pytest.raises(RuntimeError, match="grad does not fit"):
        torch.ops.sasa.pointwise_gradient(grad.double(), x)


def test_it_has_no_gradient():
    grad, x = maps(SHAPES[0])
    with pytest.raises(NotImplementedError, match="no gradient"):
        torch.ops.sasa.pointwise_gradient(grad, x.requires_grad_()).sum().backward()
