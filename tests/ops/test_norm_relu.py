"""`sasa::norm_relu`, kernel and plain torch, compared with torch's batch norm, addition and ReLU in float64."""

import pytest
import torch
import torch.nn.functional as F

from helpers import WITHOUT_KERNELS
from helpers import normal as normal_in
from sasa.ops import native
from sasa.ops.norm_relu import NormBackward, NormForward, _backward, _forward, norm_relu


def normal(*shape, seed=0):
    return normal_in(*shape, seed=seed, dtype=torch.float32)


SHAPES = [(2, 64, 7, 9), (3, 5, 4, 4), (2, 200, 3, 1), (1, 17, 3, 2), (4, 16, 40, 33), (1, 70, 9, 8)]
EPS = 1e-5
# opcheck reads .grad of tensors that have none.
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def inputs(shape, residual):
    maps = [normal(*shape, seed=s).contiguous(memory_format=torch.channels_last) for s in (0, 1, 2)]
    x, added, grad = maps[0] * 2 + 5, maps[1] if residual else None, maps[2]
    return (x, normal(shape[1], seed=3), normal(shape[1], seed=4), added), grad


def by_reference(tensors, grad, relu):
    """y, then the gradients of what was given, then mean and variance."""
    leaves = [None if t is None else t.double().requires_grad_() for t in tensors]
    x, weight, bias, residual = leaves
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)
    y = y if residual is None else y + residual
    y = y.relu() if relu else y
    grads = torch.autograd.grad(y, [t for t in leaves if t is not None], grad.double())
    return y.detach(), grads, x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3), correction=0)


def assert_near(got, want, tolerance=2e-6):
    error = (got.double() - want).norm() / want.norm().clamp_min(1e-6)
    assert error < tolerance, error


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_operation(shape, residual, relu):
    tensors, grad = inputs(shape, residual)
    leaves = [None if t is None else t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    y, mean, variance = norm_relu(*leaves, relu=relu, eps=EPS)
    grads = torch.autograd.grad(y, [t for t in leaves if t is not None], grad)
    want_y, want_grads, want_mean, want_variance = by_reference(tensors, grad, relu)
    for got, want in zip((y, mean, variance, *grads), (want_y, want_mean, want_variance, *want_grads), strict=True):
        assert_near(got, want)


@WITHOUT_KERNELS
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_in_plain_torch(residual, relu):
    (x, weight, bias, added), grad = inputs(SHAPES[0], residual)
    y, mean, variance = _forward(NormForward(x, weight, bias, added, relu, EPS))
    grads = _backward(NormBackward(grad, x, y if residual else None, weight, bias, mean, variance, relu, EPS))
    want_y, want_grads, *_ = by_reference((x, weight, bias, added), grad, relu)
    assert_near(y, want_y)
    for got, want in zip(grads[:3], want_grads[:3], strict=True):
        assert_near(got, want)
    if residual and relu:
        assert_near(grads[3], want_grads[3])


def test_a_small_spread_about_a_large_mean():
    """Subtracting the squared mean from the mean square would lose all digits here."""
    x = (normal(4, 8, 9, 9) * 1e-2 + 1000).contiguous(memory_format=torch.channels_last)
    _, mean, variance = norm_relu(x, torch.ones(8), torch.zeros(8), relu=False, eps=EPS)
    assert_near(variance, x.double().var((0, 2, 3), correction=0), 1e-4)
    assert_near(mean, x.double().mean((0, 2, 3)))


def test_threads_do_not_change_it():
    tensors, grad = inputs((4, 48, 40, 33), True)

    def run(threads):
        torch.set_num_threads(threads)
        leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
        y = norm_relu(*leaves, relu=True, eps=EPS)[0]
        return y.detach(), *torch.autograd.grad(y, leaves, grad)

    try:
        for one, other in zip(run(1), run(2), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(1)


@OPCHECK
@pytest.mark.parametrize("residual", [True, False])
def test_opcheck(residual):
    (x, weight, bias, added), _ = inputs(SHAPES[1], residual)
    leaves = [None if t is None else t.requires_grad_() for t in (x, weight, bias, added)]
    torch.library.opcheck(torch.ops.sasa.norm_relu.default, (*leaves, True, EPS))


@pytest.mark.skipif(native.missing() is not None, reason="plain torch takes any layout")
def test_contiguous_planes_are_refused():
    with pytest.raises(RuntimeError, match="channels_last"):
        torch.ops.sasa.norm_relu(normal(2, 8, 4, 4), torch.ones(8), torch.zeros(8), None, True, EPS)
