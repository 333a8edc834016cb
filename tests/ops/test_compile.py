"""The operators and their layers in torch.compile and torch.export."""

import io

import pytest
import torch
import torch._dynamo
import torch._dynamo.testing
import torch._functorch.config
import torch._inductor.config
import torch.onnx  # gives the ONNX exporter our decompositions, of which compilation must see nothing
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

import sasa
from helpers import DEVICES, OPEN_REMAINDERS, assert_close, local_inputs, normal, output_and_gradients
from operators import OPERATORS, local


@pytest.fixture
def _fresh_compiler():
    """No graph of an earlier test, and none from the disk: torch's cache does not notice an op's changed schema."""
    torch._dynamo.reset()
    inductor, autograd = torch._inductor.config, torch._functorch.config
    with inductor.patch(fx_graph_cache=False), autograd.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("device", DEVICES)
@OPERATORS
def test_a_compiled_graph_holds_the_op_and_agrees(operator, make_inputs, device):
    """One graph, forward and backward, in which the op stands for itself: no back-end is baked in."""
    graphs = []

    def keep(graph, _inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        return make_boxed_func(graph.forward)

    compiled = torch.compile(operator, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    tensors = make_inputs(dtype=torch.float32, device=device)
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
    for batch, height, width in ((2, 9, 7), (3, 12, 6), (2, 5, 17), (4, 16, 16), (5, 11, 23), (3, 30, 6), (7, 8, 9)):
        x = normal(batch, 6, height, width, dtype=torch.float32).requires_grad_()
        y = compiled(x)
        y.sum().backward()
        assert_close(y, layer(x), 1e-6)
    remainders = 1 if OPEN_REMAINDERS else 4  # even and odd heights and widths
    assert counter.frame_count <= 1 + remainders


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
@pytest.mark.parametrize("device", DEVICES)
def test_inductor_runs_a_layer(device, monkeypatch):
    monkeypatch.setenv("CI", "true")  # under which inductor refuses an op that also has a decomposition
    layer = sasa.LocalAttention2d(6, 8, kernel_size=3, num_heads=2).to(device)
    x = normal(2, 6, 5, 7, dtype=torch.float32, device=device)
    got = output_and_gradients(torch.compile(layer, fullgraph=True), [x], torch.ones(2, 8, 5, 7))
    want = output_and_gradients(layer, [x], torch.ones(2, 8, 5, 7))
    assert_close(got[0], want[0], 1e-5)
    assert_close(got[1], want[1], 1e-5)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["sasa_resnet26", "resnet26"])
def test_a_network_is_one_graph(name, training):
    torch.manual_seed(0)
    network = sasa.create_model(name, layers=(1, 1, 1, 1), num_classes=3, num_heads=2, width=0.25)
    network = network.train(training).to(memory_format=torch.channels_last)
    images = normal(2, 3, 64, 64, dtype=torch.float32).to(memory_format=torch.channels_last)
    with torch.set_grad_enabled(training):
        assert_close(torch.compile(network, fullgraph=True, backend="eager")(images), network(images), 1e-3)


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
    shapes = [(2, 3, 9, 8), (3, 3, 21, 16)]
    if sizes is NAMED or OPEN_REMAINDERS:
        shapes.append((3, 3, 20, 13))
    for shape in shapes:
        x = torch.randn(shape)
        assert_close(loaded(x), module(x), 1e-6)
