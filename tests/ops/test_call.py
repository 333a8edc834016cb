"""`call_op`: the same gradients with less overhead in eager mode, and the dispatcher op where torch records a call."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from sasa import LocalAttention2d
from sasa.ops.call import FUNCTIONS, call_op


@pytest.fixture
def arguments() -> list:
    layer = LocalAttention2d(8, 8, 3, num_heads=2).double()
    return [*layer.inputs(torch.randn(2, 8, 5, 4, dtype=torch.float64)), *layer.options]


def node(arguments: list) -> str:
    """Name of the node that will compute the gradient of attention called in this mode."""
    return type(call_op("qkv_attention", *arguments)[0].grad_fn).__name__


def test_every_op_with_a_gradient_has_a_function():
    operators = {"local_attention", "qkv_attention", "block_attention", "block_attention_pooled", "norm_relu"}
    assert set(FUNCTIONS) == operators | {f"{name}_backward" for name in operators}


def test_eager_gradients_are_those_of_the_op(arguments):
    inputs = [value for value in arguments if isinstance(value, torch.Tensor)]
    op = torch.ops.sasa.qkv_attention.default
    (y, logsumexp), (expected, expected_logsumexp) = call_op("qkv_attention", *arguments), op(*arguments)
    assert type(y.grad_fn).__name__ == "QkvAttentionBackward"
    assert not logsumexp.requires_grad
    assert torch.equal(y, expected)
    assert torch.equal(logsumexp, expected_logsumexp)
    seed = torch.randn_like(y)
    found = torch.autograd.grad(y, inputs, seed, create_graph=True)
    wanted = torch.autograd.grad(expected, inputs, seed, create_graph=True)
    for grad, other in zip(found, wanted, strict=True):
        assert torch.equal(grad, other)
    seconds = [torch.autograd.grad(sum(g.square().sum() for g in grads), inputs) for grads in (found, wanted)]
    for grad, other in zip(*seconds, strict=True):
        torch.testing.assert_close(grad, other)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_the_results_are_the_same(arguments, mode):
    expected = call_op("qkv_attention", *arguments)[0]
    with mode():
        y = call_op("qkv_attention", *arguments)[0]
    assert not y.requires_grad
    assert torch.equal(y, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_recorded_calls_are_calls_of_the_op(arguments):
    generated = "GeneratedBackwardFor_sasa_qkv_attention_defaultBackward"
    with FlopCounterMode(display=False) as counter:
        assert node(arguments) == generated
    assert counter.get_total_flops() > 0
    inputs, options = arguments[:3], arguments[3:]
    graph = make_fx(lambda *given: call_op("qkv_attention", *given, *options)[0])(*inputs)
    assert torch.ops.sasa.qkv_attention.default in {call.target for call in graph.graph.nodes}
    leaves = tuple(value.detach().requires_grad_() for value in inputs)
    trace = torch.jit.trace(lambda *given: call_op("qkv_attention", *given, *options)[0], leaves)
    assert "sasa::qkv_attention" in str(trace.graph)
