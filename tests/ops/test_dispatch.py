"""The operators under torch's autograd: opcheck, gradcheck, second derivatives, forward mode and torch.func."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from helpers import (
    DEVICES,
    assert_close,
    backend_params,
    block_inputs,
    local_inputs,
    loop_local_attention,
    normal,
    output_and_gradients,
)
from operators import BACKEND, BLOCK_SHAPE, LOCAL_SHAPE, OPERATORS, block, leaves, local, of_given

# torch loads its own forward-mode formulas with torch.jit.script, and warns of it.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
# vmap loops over an operation without a batching rule, such as the gradient of unfold, and warns of it.
VMAP_LOOPS = pytest.mark.filterwarnings("ignore:There is a performance drop")
# opcheck reads .grad of tensors that have none.
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
DEVICE = pytest.mark.parametrize("device", DEVICES)
LOCAL = torch.ops.sasa.local_attention.default
BLOCK = torch.ops.sasa.block_attention.default


def with_layout(tensors, layout):
    """Strides that a fake implementation may get wrong: of the maps, or of maps and weights."""

    def lay(t):
        if t is None or layout == "contiguous":
            return t
        if layout == "transposed":
            return t.mT.contiguous().mT
        return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t

    return [lay(t) for t in tensors]


# -------------------------------------------------------------------------------------------- opcheck, gradcheck


OPCHECKS = [  # one of the operators, terms, padding or values, dtype, layout
    (local, "both", {"padding": "zeros"}, torch.float32, "contiguous"),
    (local, "content", {"padding": "mask"}, torch.float32, "channels_last"),
    (local, "relative", {"padding": "zeros"}, torch.bfloat16, "transposed"),
    (block, "both", {"values": "weights"}, torch.float32, "contiguous"),
    (block, "content", {"values": "map"}, torch.float32, "channels_last"),
    (block, "relative", {"values": "weights"}, torch.bfloat16, "transposed"),
]


@OPCHECK
@pytest.mark.parametrize(("operator", "terms", "more", "dtype", "layout"), OPCHECKS)
@DEVICE
def test_opcheck(device, operator, terms, more, dtype, layout):
    if operator is local:
        tensors = local_inputs(*LOCAL_SHAPE, terms=terms, dtype=dtype, device=device)
        forward, backward, options = LOCAL, torch.ops.sasa.local_attention_backward, (3, 2, more["padding"], 0.5)
    else:
        tensors = block_inputs(*BLOCK_SHAPE, terms=terms, dtype=dtype, device=device, **more)
        forward, backward, options = BLOCK, torch.ops.sasa.block_attention_backward, (4, 2, 0.5)
    tensors = with_layout(tensors, layout)
    torch.library.opcheck(forward, (*leaves(tensors), *options))
    output, logsumexp = forward(*tensors, *options)
    for image_gradient in ((),) if operator is local else ((True,), (False,)):
        arguments = (torch.ones_like(output), *tensors, logsumexp, *options, *image_gradient)
        torch.library.opcheck(backward.default, arguments, test_utils=("test_schema", "test_faketensor"))


def described(results):
    """The properties that a fake implementation must predict."""
    return [(r.shape, r.dtype, r.device, r.stride()) for r in results]


@DEVICE
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@OPERATORS
def test_the_fake_results_have_the_real_strides(operator, make_inputs, layout, device):
    """Forward and backward: a compiler plans memory by the fake ones."""
    tensors = with_layout(make_inputs(dtype=torch.float32, device=device), layout)
    forward, backward, options = (
        (LOCAL, torch.ops.sasa.local_attention_backward, (3, 2, "zeros", 0.5))
        if operator is local
        else (BLOCK, torch.ops.sasa.block_attention_backward, (4, 2, 0.5))
    )
    more = options if operator is local else (*options, True)
    output, logsumexp = forward(*tensors, *options)
    real = [output, logsumexp, *backward(torch.ones_like(output), *tensors, logsumexp, *more)]
    with FakeTensorMode() as mode:
        fakes = [None if t is None else mode.from_tensor(t) for t in tensors]
        output, logsumexp = forward(*fakes, *options)
        fake = [output, logsumexp, *backward(torch.ones_like(output), *fakes, logsumexp, *more)]
    assert described(fake) == described(real)


@BACKEND
@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_gradcheck_local_attention(terms, padding, backend):
    tensors = local_inputs(1, 2, 2, 1, 3, 2, 3, terms=terms)
    assert torch.autograd.gradcheck(*of_given(local, tensors, padding=padding, backend=backend))


@BACKEND
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_gradcheck_block_attention(terms, values, backend):
    tensors = block_inputs(1, 2, 2, 2, 1, 3, 2, 2, terms=terms, values=values)
    assert torch.autograd.gradcheck(*of_given(block, tensors, block_size=2, backend=backend))


@OPERATORS
@BACKEND
def test_the_output_may_be_changed_in_place(operator, make_inputs, backend):
    """As after a convolution: the backward does not read the output, so ReLU(inplace=True) may follow."""
    tensors = make_inputs()
    grad = normal(*operator(*tensors).shape, seed=3)
    got = output_and_gradients(lambda *t: operator(*t, backend=backend).relu_(), tensors, grad)
    want = output_and_gradients(lambda *t: operator(*t, backend="reference").relu(), tensors, grad)
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_close(one, other)


@OPERATORS
@BACKEND
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_under_activation_checkpointing(operator, make_inputs, backend, reentrant):
    tensors = make_inputs()

    def checkpointed(*inputs):
        return checkpoint(lambda *i: operator(*i, backend=backend), *inputs, use_reentrant=reentrant)

    grad = normal(*operator(*tensors).shape, seed=3)
    got = output_and_gradients(checkpointed, tensors, grad)
    want = output_and_gradients(operator, tensors, grad, backend=backend)
    for one, other in zip(got, want, strict=True):
        assert one is None if other is None else torch.equal(one, other)


def test_logsumexp_is_not_differentiable():
    output, logsumexp = LOCAL(*leaves(local_inputs(*LOCAL_SHAPE)), 3, 2, "zeros", 1.0)
    assert output.requires_grad
    assert not logsumexp.requires_grad


def test_logsumexp_of_the_op_is_that_of_the_equation():
    tensors = local_inputs(*LOCAL_SHAPE)
    want = loop_local_attention(*tensors, kernel_size=3, num_heads=2, padding="mask", scale=0.5)[1]
    assert_close(LOCAL(*tensors, 3, 2, "mask", 0.5)[1], want)


# ---------------------------------------------------------------- second derivatives, forward mode and torch.func

DIFFERENTIABLE = pytest.mark.parametrize("backend", backend_params("auto", "reference"))


@OPERATORS
def test_plain_torch_by_name_has_no_second_derivative(operator, make_inputs):
    inputs = leaves(make_inputs())
    (first,) = torch.autograd.grad(operator(*inputs, backend="eager").square().sum(), inputs[0], create_graph=True)
    name = "local_attention" if operator is local else "block_attention"
    with pytest.raises(NotImplementedError, match=f'sasa::{name} has no second derivative; backend="reference"'):
        first.square().sum().backward()


@DIFFERENTIABLE
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
@pytest.mark.parametrize("is_local", [True, False], ids=["local_attention", "block_attention"])
def test_gradgradcheck(is_local, terms, backend):
    if is_local:
        checked = of_given(local, local_inputs(1, 1, 2, 1, 2, 2, 3, terms=terms), num_heads=1, backend=backend)
    else:
        inputs = block_inputs(1, 1, 1, 2, 1, 2, 1, 2, terms=terms)
        checked = of_given(block, inputs, num_heads=1, block_size=2, backend=backend)
    assert torch.autograd.gradgradcheck(*checked)


def test_one_tensor_as_several_inputs_has_the_sum_of_their_second_derivatives():
    x, _, _, *rel = local_inputs(*LOCAL_SHAPE[:2], 4, 4, 5, 4, 3)

    def penalty(backend):
        leaf = x.clone().requires_grad_()
        y = local(leaf, leaf, leaf, *rel, backend=backend)
        (first,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    assert_close(penalty("auto"), penalty("reference"))


def test_a_third_derivative():
    x, *rest = local_inputs(*LOCAL_SHAPE)
    x.requires_grad_()
    results = []
    for backend in ("auto", "reference"):
        result = local(x, *rest, backend=backend).pow(3).sum()
        for _ in range(3):
            (result,) = torch.autograd.grad(result.sum(), x, create_graph=True)
        results.append(result)
    assert results[1].abs().max() > 1e-3
    assert_close(*results)


@FORWARD_MODE
@OPERATORS
@pytest.mark.parametrize("backend", backend_params("eager"))
def test_forward_mode_is_refused_for_every_input(operator, make_inputs, backend):
    """torch would silently give a zero tangent."""
    for values in ({}, {"values": "map"}) if operator is block else ({},):
        tensors = make_inputs(**values)
        for n, tensor in enumerate(tensors):
            if tensor is None:
                continue
            with forward_ad.dual_level():
                duals = [*tensors]
                duals[n] = forward_ad.make_dual(tensor, torch.ones_like(tensor))
                with pytest.raises(NotImplementedError, match="carries a forward-mode tangent: sasa operators differ"):
                    operator(*duals, backend=backend)


@DIFFERENTIABLE
@FORWARD_MODE
@OPERATORS
def test_forward_mode(operator, make_inputs, backend):
    tensors = make_inputs()
    step = normal(*tensors[0].shape, seed=8)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[0], step)
        tangent = forward_ad.unpack_dual(operator(dual, *tensors[1:], backend=backend)).tangent
    moved = [operator(tensors[0] + h * step, *tensors[1:], backend="reference") for h in (1e-5, -1e-5)]
    assert_close(tangent, (moved[0] - moved[1]) / 2e-5, 1e-7)


TRANSFORMS = {
    "grad": lambda f, t, v: torch.func.grad(f)(t),
    "vjp": lambda f, t, v: torch.func.vjp(f, t)[1](torch.ones((), dtype=t.dtype))[0],
    "jvp": lambda f, t, v: torch.func.jvp(f, (t,), (v,))[1],
    "jacrev": lambda f, t, v: torch.func.jacrev(f)(t),
    "jacfwd of a sum": lambda f, t, v: torch.func.jacfwd(lambda s: f(s * t))(torch.ones((), dtype=t.dtype)),
    "Hessian-vector product": lambda f, t, v: torch.func.jvp(torch.func.grad(f), (t,), (v,))[1],
    "gradient of a gradient": lambda f, t, v: torch.func.grad(lambda s: (torch.func.grad(f)(s) * v).sum())(t),
}


@OPERATORS
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@FORWARD_MODE
@VMAP_LOOPS
def test_torch_func(operator, make_inputs, transform):
    first, *rest = make_inputs()
    step = normal(*first.shape, seed=8)
    got, want = (
        transform(lambda t, b=backend: operator(t, *rest, backend=b).pow(3).sum(), first, step)
        for backend in ("auto", "reference")
    )
    assert want.abs().max() > 1e-3
    assert torch.equal(got, want)


@OPERATORS
def test_torch_func_grad_is_the_gradient(operator, make_inputs):
    first, *rest = make_inputs()
    got = torch.func.grad(lambda t: operator(t, *rest).sum())(first)
    want = output_and_gradients(operator, [first, *rest], torch.ones_like(operator(first, *rest)))[1]
    assert_close(got, want)


@OPERATORS
@pytest.mark.parametrize("backend", backend_params("eager"))
@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "jacrev"])
@FORWARD_MODE
def test_plain_torch_by_name_refuses_torch_func(operator, make_inputs, backend, transform):
    """It is refused rather than silently wrong."""
    first, *rest = make_inputs()

    def function(t):
        return operator(t, *rest, backend=backend).square().sum()

    with pytest.raises((RuntimeError, NotImplementedError), match=r"functorch|forward-mode"):
        TRANSFORMS[transform](function, first, first)


@OPERATORS
@VMAP_LOOPS
def test_vmap_is_a_loop(operator, make_inputs):
    first, *rest = make_inputs()
    many = torch.stack([first, 0.5 * first, -first])
    got = torch.func.vmap(lambda t: operator(t, *rest))(many)
    assert_close(got, torch.stack([operator(t, *rest) for t in many]))
