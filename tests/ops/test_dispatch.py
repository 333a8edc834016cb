"""The dispatcher ops under torch's own machinery: opcheck, gradcheck, compile, export, autocast, torch.func."""

import io

import pytest
import torch
import torch._dynamo
import torch._dynamo.testing
import torch._functorch.config
import torch._inductor.config
import torch.autograd.forward_ad as forward_ad
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils.checkpoint import checkpoint

import sasa
from helpers import assert_close, block_inputs, local_inputs, loop_local_attention, normal, output_and_gradients
from sasa.ops import block_attention, local_attention

# torch loads its own forward-mode formulas with torch.jit.script, and warns of it.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
# opcheck reads .grad of tensors that have none.
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
BACKEND = pytest.mark.parametrize("backend", ["auto", "eager"])
LOCAL = torch.ops.sasa.local_attention.default
BLOCK = torch.ops.sasa.block_attention.default
LOCAL_SHAPE = (2, 2, 4, 2, 5, 4, 3)
BLOCK_SHAPE = (2, 3, 2, 4, 2, 5, 6, 4)


def local(*tensors, **options):
    """`local_attention` of the shape LOCAL_SHAPE."""
    content = tensors[1] is not None
    return local_attention(*tensors, **{"kernel_size": 3, "num_heads": 2, "content": content, **options})


def block(image, w_query, w_key, w_value, rel_row, rel_col, value, **options):
    """`block_attention` of the shape BLOCK_SHAPE."""
    options = {"block_size": 4, "num_heads": 2, "content": w_key is not None, **options}
    return block_attention(image, w_query, w_key, w_value, rel_row, rel_col, value=value, **options)


OPERATORS = pytest.mark.parametrize(
    ("operator", "make_inputs"),
    [(local, lambda **o: local_inputs(*LOCAL_SHAPE, **o)), (block, lambda **o: block_inputs(*BLOCK_SHAPE, **o))],
    ids=["local_attention", "block_attention"],
)


@pytest.fixture
def _fresh_compiler():
    """No graph of an earlier test, and none from the disk: torch's cache does not notice an op's changed schema."""
    torch._dynamo.reset()
    inductor, autograd = torch._inductor.config, torch._functorch.config
    with inductor.patch(fx_graph_cache=False), autograd.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()


def leaves(tensors):
    return [None if t is None else t.detach().requires_grad_() for t in tensors]


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


@OPCHECK
@pytest.mark.parametrize(
    ("terms", "padding", "dtype", "layout"),
    [
        ("both", "zeros", torch.float32, "contiguous"),
        ("content", "mask", torch.float32, "channels_last"),
        ("relative", "zeros", torch.bfloat16, "transposed"),
    ],
    ids=str,
)
def test_opcheck_local_attention(terms, padding, dtype, layout):
    tensors = with_layout(local_inputs(*LOCAL_SHAPE, terms=terms, dtype=dtype), layout)
    torch.library.opcheck(LOCAL, (*leaves(tensors), 3, 2, padding, 0.5))
    output, logsumexp = LOCAL(*tensors, 3, 2, padding, 0.5)
    backward = torch.ops.sasa.local_attention_backward.default
    arguments = (torch.ones_like(output), *tensors, logsumexp, 3, 2, padding, 0.5)
    torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))


@OPCHECK
@pytest.mark.parametrize(
    ("terms", "values", "dtype", "layout"),
    [
        ("both", "weights", torch.float32, "contiguous"),
        ("content", "map", torch.float32, "channels_last"),
        ("relative", "weights", torch.bfloat16, "transposed"),
    ],
    ids=str,
)
def test_opcheck_block_attention(terms, values, dtype, layout):
    tensors = with_layout(block_inputs(*BLOCK_SHAPE, terms=terms, values=values, dtype=dtype), layout)
    torch.library.opcheck(BLOCK, (*leaves(tensors), 4, 2, 0.5))
    output, logsumexp = BLOCK(*tensors, 4, 2, 0.5)
    backward = torch.ops.sasa.block_attention_backward.default
    for image_gradient in (True, False):
        arguments = (torch.ones_like(output), *tensors, logsumexp, 4, 2, 0.5, image_gradient)
        torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))


@BACKEND
@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_gradcheck_local_attention(terms, padding, backend):
    tensors = leaves(local_inputs(1, 2, 2, 1, 3, 2, 3, terms=terms))
    given = [t for t in tensors if t is not None]

    def function(*some):
        rest = iter(some)
        return local(*[None if t is None else next(rest) for t in tensors], padding=padding, backend=backend)

    assert torch.autograd.gradcheck(function, given)


@BACKEND
@pytest.mark.parametrize("values", ["weights", "map"])
@pytest.mark.parametrize("terms", ["both", "content", "relative"])
def test_gradcheck_block_attention(terms, values, backend):
    tensors = leaves(block_inputs(1, 2, 2, 2, 1, 3, 2, 2, terms=terms, values=values))
    given = [t for t in tensors if t is not None]

    def function(*some):
        rest = iter(some)
        every = [None if t is None else next(rest) for t in tensors]
        return block(*every, block_size=2, backend=backend)

    assert torch.autograd.gradcheck(function, given)


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


# ------------------------------------------------------------------------------------------------ compile, export


@pytest.mark.usefixtures("_fresh_compiler")
@OPERATORS
def test_a_compiled_graph_holds_the_op_and_agrees(operator, make_inputs):
    """One graph, forward and backward, in which the op stands for itself: no back-end is baked in."""
    graphs = []

    def keep(graph, _inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        return make_boxed_func(graph.forward)

    compiled = torch.compile(operator, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    tensors = make_inputs(dtype=torch.float32)
    grad = torch.ones_like(operator(*tensors))
    got = output_and_gradients(compiled, tensors, grad)
    want = output_and_gradients(operator, tensors, grad)
    for one, other in zip(got, want, strict=True):
        assert one is None if other is None else torch.equal(one, other)
    forward, backward = graphs
    name = "local_attention" if operator is local else "block_attention"
    assert f"sasa.{name}.default" in forward
    assert f"sasa.{name}_backward.default" in backward
    assert not any("mm" in target or "softmax" in target or "exp." in target for target in forward | backward)


@pytest.mark.usefixtures("_fresh_compiler")
def test_one_dynamic_graph_serves_all_sizes():
    layer = sasa.LocalAttention2d(6, 8, kernel_size=3, stride=2, num_heads=2)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for batch, height, width in ((2, 9, 7), (3, 12, 6), (2, 5, 17), (4, 16, 16)):
        x = normal(batch, 6, height, width, dtype=torch.float32).requires_grad_()
        y = compiled(x)
        y.sum().backward()
        assert_close(y, layer(x), 1e-6)
    assert counter.frame_count <= 2


@pytest.mark.usefixtures("_fresh_compiler")
def test_one_dynamic_graph_of_the_stem_serves_all_sizes():
    stem = sasa.AttentionStem(3, 8, num_heads=2).eval()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(stem, fullgraph=True, dynamic=True, backend=counter)
    for batch, height, width in ((2, 9, 7), (3, 12, 6), (2, 5, 17)):
        x = normal(batch, 3, height, width, dtype=torch.float32)
        assert_close(compiled(x), stem(x), 1e-6)
    assert counter.frame_count <= 2


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_changed_size_recompiles_once_by_default():
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(local, fullgraph=True, backend=counter)
    for height in (5, 6, 7, 9, 13):
        tensors = local_inputs(2, 2, 4, 2, height, 4, 3, dtype=torch.float32)
        assert_close(compiled(*tensors), local(*tensors), 1e-6)
    assert counter.frame_count <= 2


@pytest.mark.usefixtures("_fresh_compiler")
def test_inductor_runs_a_layer():
    layer = sasa.LocalAttention2d(6, 8, kernel_size=3, num_heads=2)
    x = normal(2, 6, 5, 7, dtype=torch.float32)
    got = output_and_gradients(torch.compile(layer, fullgraph=True), [x], torch.ones(2, 8, 5, 7))
    want = output_and_gradients(layer, [x], torch.ones(2, 8, 5, 7))
    assert_close(got[0], want[0], 1e-5)
    assert_close(got[1], want[1], 1e-5)


NAMED = {n: torch.export.Dim(name, min=2, max=512) for n, name in ((0, "batch"), (2, "height"), (3, "width"))}
AUTO = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)


@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        (lambda: sasa.LocalAttention2d(3, 8, kernel_size=5, num_heads=2), NAMED),
        (lambda: sasa.AttentionStem(3, 8, pool=False), NAMED),
        # torch's pools with ceil_mode add guards that named sizes cannot express.
        (lambda: sasa.LocalAttention2d(3, 8, kernel_size=5, num_heads=2, stride=2), AUTO),
        (lambda: sasa.AttentionStem(3, 8), AUTO),
    ],
    ids=["LocalAttention2d", "AttentionStem", "LocalAttention2d-stride", "AttentionStem-pool"],
)
def test_an_exported_module_runs_at_other_sizes(module, sizes):
    module = module().eval()
    exported = torch.export.export(module, (torch.randn(2, 3, 9, 8),), dynamic_shapes=(sizes,))
    assert any(str(node.target).startswith("sasa.") for node in exported.graph.nodes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for shape in ((2, 3, 9, 8), (3, 3, 20, 13)):
        x = torch.randn(shape)
        assert_close(loaded(x), module(x), 1e-6)


# ------------------------------------------------------------------------------------------------------- autocast


def half_but_embeddings(tensors):
    """What autocast makes of the inputs: the relative embeddings, two places after the last of q, k, v, stay."""
    embeddings = (3, 4) if len(tensors) == 5 else (4, 5)
    return [t if t is None or n in embeddings else t.bfloat16() for n, t in enumerate(tensors)]


@OPERATORS
@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
def test_autocast_rounds_inputs_and_nothing_else(operator, make_inputs, backend):
    tensors = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = operator(*tensors, backend=backend)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, operator(*half_but_embeddings(tensors), backend=backend))


@OPERATORS
@BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_backward_inside_autocast_is_the_one_outside(operator, make_inputs, backend, dtype):
    """To the bit: no product of the backward, the embeddings' gradients included, is taken in bfloat16."""
    tensors = make_inputs(dtype=torch.float32)
    if dtype == torch.bfloat16:
        tensors = half_but_embeddings(tensors)
    grad = normal(*operator(*tensors).shape, seed=3, dtype=dtype)
    grads = []
    for inside in (False, True):
        inputs = leaves(tensors)
        output = operator(*inputs, backend=backend)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            output.backward(grad)
        grads.append([t.grad for t in inputs if t is not None])
    for outside, inside in zip(*grads, strict=True):
        assert torch.equal(outside, inside)


@OPERATORS
@BACKEND
def test_training_under_autocast(operator, make_inputs, backend):
    """Forward and backward inside: float32 gradients for float32 inputs, near the exact ones."""
    tensors = make_inputs(dtype=torch.float32)
    want = output_and_gradients(operator, tensors, torch.ones_like(operator(*tensors)), backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        got = output_and_gradients(operator, tensors, torch.ones_like(want[0]), backend=backend)
    assert got[0].dtype == torch.bfloat16
    for one, judge in zip(got[1:], want[1:], strict=True):
        assert (one is None) == (judge is None)
        if one is not None:
            assert one.dtype == torch.float32
            assert_close(one, judge, 5e-2)


@OPERATORS
def test_autocast_leaves_float64_alone(operator, make_inputs):
    tensors = make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        got = operator(*tensors)
    assert torch.equal(got, operator(*tensors))


def test_a_layer_under_autocast_keeps_its_embeddings():
    layer = sasa.LocalAttention2d(3, 8, kernel_size=3, num_heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(1, 3, 6, 6))
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.rel_row.grad.dtype == torch.float32


# ------------------------------------------------------------------------------------- what cannot be differentiated


@OPERATORS
@BACKEND
def test_a_second_derivative_says_that_there_is_none(operator, make_inputs, backend):
    inputs = leaves(make_inputs())
    (first,) = torch.autograd.grad(operator(*inputs, backend=backend).square().sum(), inputs[0], create_graph=True)
    name = "local_attention" if operator is local else "block_attention"
    with pytest.raises(NotImplementedError, match=f'sasa::{name} has no second derivative; backend="reference"'):
        first.square().sum().backward()


@pytest.mark.parametrize("is_local", [True, False], ids=["local_attention", "block_attention"])
def test_the_reference_is_twice_differentiable(is_local):
    operator = local if is_local else block
    tensors = leaves(local_inputs(1, 1, 2, 1, 2, 2, 3) if is_local else block_inputs(1, 1, 1, 2, 1, 2, 1, 2))
    options = {"num_heads": 1} if is_local else {"num_heads": 1, "block_size": 2}
    given = [t for t in tensors if t is not None]

    def function(*some):
        rest = iter(some)
        return operator(*[None if t is None else next(rest) for t in tensors], backend="reference", **options)

    assert torch.autograd.gradgradcheck(function, given)


@FORWARD_MODE
@OPERATORS
@BACKEND
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


@FORWARD_MODE
@OPERATORS
def test_the_reference_has_forward_mode(operator, make_inputs):
    tensors = make_inputs()
    step = normal(*tensors[0].shape, seed=8)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[0], step)
        tangent = forward_ad.unpack_dual(operator(dual, *tensors[1:], backend="reference")).tangent
    moved = [operator(tensors[0] + h * step, *tensors[1:], backend="reference") for h in (1e-5, -1e-5)]
    assert_close(tangent, (moved[0] - moved[1]) / 2e-5, 1e-7)


@OPERATORS
@BACKEND
@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "jacrev"])
@FORWARD_MODE
def test_torch_func_raises_and_is_never_silently_wrong(operator, make_inputs, backend, transform):
    first, *rest = make_inputs()

    def function(t):
        return operator(t, *rest, backend=backend).square().sum()

    calls = {
        "grad": lambda: torch.func.grad(function)(first),
        "vjp": lambda: torch.func.vjp(function, first)[1](torch.ones((), dtype=torch.float64)),
        "jvp": lambda: torch.func.jvp(function, (first,), (first,)),
        "jacrev": lambda: torch.func.jacrev(function)(first),
    }
    with pytest.raises((RuntimeError, NotImplementedError), match=r"functorch|forward-mode"):
        calls[transform]()


@OPERATORS
def test_torch_func_grad_of_the_reference(operator, make_inputs):
    first, *rest = make_inputs()
    got = torch.func.grad(lambda t: operator(t, *rest, backend="reference").sum())(first)
    want = output_and_gradients(operator, [first, *rest], torch.ones_like(operator(first, *rest)))[1]
    assert_close(got, want)


@OPERATORS
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_a_loop(operator, make_inputs):
    first, *rest = make_inputs()
    many = torch.stack([first, 0.5 * first, -first])
    got = torch.func.vmap(lambda t: operator(t, *rest))(many)
    assert_close(got, torch.stack([operator(t, *rest) for t in many]))
