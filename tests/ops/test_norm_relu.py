"""`sasa::norm_relu` and `sasa::affine_` compared with torch's batch norm, addition and ReLU in float64."""

import pytest
import torch
import torch.nn.functional as F

from helpers import WITHOUT_KERNELS, normal
from sasa.ops import native
from sasa.ops.norm_relu import NormBackward, NormForward, _backward, _forward, affine_, norm_relu


def normal32(*shape, seed=0):
    return normal(*shape, seed=seed, dtype=torch.float32)


SHAPES = [(2, 64, 7, 9), (3, 5, 4, 4), (2, 200, 3, 1), (1, 17, 3, 2), (4, 16, 40, 33), (1, 70, 9, 8)]
EPS = 1e-5
# opcheck reads .grad of tensors that have none.
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def inputs(shape, residual):
    maps = [normal32(*shape, seed=s).contiguous(memory_format=torch.channels_last) for s in (0, 1, 2)]
    x, added, grad = maps[0] * 2 + 5, maps[1] if residual else None, maps[2]
    return (x, normal32(shape[1], seed=3), normal32(shape[1], seed=4), added), grad


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
    x = (normal32(4, 8, 9, 9) * 1e-2 + 1000).contiguous(memory_format=torch.channels_last)
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
        torch.ops.sasa.norm_relu(normal32(2, 8, 4, 4), torch.ones(8), torch.zeros(8), None, True, EPS)


# affine_, in place, compared with the same in float64


AFFINE_SHAPES = [(2, 16, 5, 7), (1, 3, 1, 1), (3, 37, 2, 9), (2, 64, 1, 4), (0, 8, 3, 3), (5, 1, 4, 4), (1, 70, 9, 8)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def laid(tensor, layout):
    return tensor.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else tensor


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", AFFINE_SHAPES, ids=str)
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
    torch.testing.assert_close(got.double(), want, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


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
