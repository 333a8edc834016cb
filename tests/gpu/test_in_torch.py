"""The CUDA kernels under torch's compilers, CUDA graphs, streams, autocast and process groups."""

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn

import sasa
from gpu.calls import Call, Options
from helpers import assert_close
from sasa.models import create_model

pytestmark = pytest.mark.usefixtures("chosen")
BF16 = torch.bfloat16
COMPILERS_WARN = pytest.mark.filterwarnings("default")  # warnings from inside torch
# opcheck reads .grad of tensors that have none.
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def layers(backend: str = "auto") -> nn.Module:
    """A stem and two layers on tensor cores."""
    torch.manual_seed(0)
    network = nn.Sequential(
        sasa.AttentionStem(3, 64, num_heads=4, backend=backend),
        sasa.LocalAttention2d(64, 128, stride=2, num_heads=8, backend=backend),
        nn.ReLU(),
        sasa.LocalAttention2d(128, 64, kernel_size=5, num_heads=4, padding="mask", backend=backend),
    )
    return network.to("cuda", memory_format=torch.channels_last)


def images(batch: int = 4, side: int = 66) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)


def gradients(module, x, dtype=None):
    """The output and the gradients of a step, by autocast to `dtype` where it is given."""
    module.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype or BF16, enabled=dtype is not None):
        output = module(x)
    output.float().square().mean().backward()
    return [output.detach(), *(p.grad.clone() for p in module.parameters())]


def assert_near(got, want, tolerance):
    for one, other in zip(got, want, strict=True):
        assert_close(one.cpu(), other.cpu(), tolerance, otherwise=other.double().norm().item() + 1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-4), (BF16, 0.15)], ids=["fp32", "autocast"])
def test_layers_agree_with_the_reference_back_end(dtype, tolerance):
    assert_near(gradients(layers(), images(), dtype), gradients(layers("reference"), images()), tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_a_resnet_26_agrees_with_plain_torch(training):
    torch.manual_seed(0)
    model = create_model("sasa_resnet26", num_classes=10, zero_init_residual=False).to("cuda").train(training)
    x = images(4, 96)
    got = gradients(model, x) if training else [model(x).detach()]
    for module in model.modules():
        if isinstance(module, sasa.LocalAttention2d | sasa.AttentionStem):
            module.backend = "eager"
    # Rounding may choose another extreme of a block, and batch norm over a few pixels amplifies it in the gradients.
    assert_near(got, gradients(model, x) if training else [model(x).detach()], 0.1 if training else 1e-2)


def test_inference_with_fused_pooling_and_norm_agrees():
    model = layers().eval()
    with torch.no_grad():
        fused = model(images())
    assert_close(fused.cpu(), model(images()).detach().cpu(), 1e-4)


@COMPILERS_WARN
@pytest.mark.parametrize("dtype", [None, BF16], ids=["fp32", "autocast"])
def test_compiled_in_one_graph(dtype):
    torch._dynamo.reset()
    model = layers()
    want = gradients(model, images(), dtype)
    assert_near(gradients(torch.compile(model, fullgraph=True), images(), dtype), want, 0.15 if dtype else 1e-3)


@COMPILERS_WARN
def test_exported():
    model = layers().eval()
    with torch.no_grad():
        program = torch.export.export(model, (images(),))
        assert_close(program.module()(images()).cpu(), model(images()).cpu(), 1e-4)


@OPCHECK
@pytest.mark.parametrize("name", ["local_attention", "qkv_attention"])
def test_opcheck(name):
    call = Call.make(2, 16, 9, 11, Options(7), BF16)
    inputs = call.inputs("cuda")
    if name == "qkv_attention":
        qkv = call.qkv.cuda().requires_grad_()
        torch.library.opcheck(torch.ops.sasa.qkv_attention.default, (qkv, *inputs[3:], 7, 2, True, "zeros", 1.0))
    else:
        torch.library.opcheck(torch.ops.sasa.local_attention.default, (*inputs, 7, 2, "zeros", 1.0))


def test_a_cuda_graph_replays_forward_and_backward():
    model, x = layers(), images()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are compiled and memory is allocated
        for _ in range(3):
            gradients(model, x)
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x).square().mean().backward()
    x.copy_(torch.randn_like(x))
    graph.replay()
    replayed = [p.grad.clone() for p in model.parameters()]
    assert_near(replayed, gradients(model, x)[1:], 1e-4)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_first_use_in_a_cuda_graph_is_an_error_and_not_a_crash():
    """With a window that no other test uses, so that the kernel is not loaded."""
    x = torch.randn(1, 32, 9, 9, device="cuda", dtype=BF16).to(memory_format=torch.channels_last)

    def attend():
        return sasa.ops.local_attention(x, x, x, kernel_size=15, num_heads=2)

    stream = torch.cuda.Stream()
    with (
        pytest.raises(RuntimeError, match="used for the first time while a CUDA graph is captured"),
        torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream),
    ):
        attend()
    assert attend().isfinite().all()


def test_streams_do_not_disturb_each_other():
    """Calls on several streams at once, whose workspaces come from torch's allocator."""
    call = Call.make(8, 16, 40, 40, Options(7, 4), BF16)
    want = [t.cpu() for t in call.results("cuda", "cuda")]
    streams, found = [torch.cuda.Stream() for _ in range(4)], []
    for _ in range(3):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(call.results("cuda", "cuda"))
    torch.cuda.synchronize()
    for results in found:
        assert all(torch.equal(got.cpu(), one) for got, one in zip(results, want, strict=True))


def test_deterministic_algorithms_repeat_to_the_bit():
    torch.use_deterministic_algorithms(True)
    try:
        model = layers()
        first, second = (gradients(model.train(), images(), BF16) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))


@pytest.mark.skipif(not dist.is_nccl_available(), reason="this torch has no NCCL")
def test_data_parallel_gradients_are_the_same(tmp_path):
    model = layers()
    alone = gradients(model, images())
    dist.init_process_group(
        "nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1, device_id=torch.device("cuda:0")
    )
    try:
        parallel = gradients(nn.parallel.DistributedDataParallel(model, device_ids=[0]), images())
    finally:
        dist.destroy_process_group()
    assert_near(parallel, alone, 1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_the_second_gpu():
    call = Call.make(2, 16, 13, 18, Options(7), BF16)
    want = call.results("cuda:0", "cuda")
    for got, one in zip(call.results("cuda:1", "cuda"), want, strict=True):
        assert got.device == torch.device("cuda:1")
        assert torch.equal(got.cpu(), one.cpu())


def test_no_memory_is_leaked():
    call = Call.make(2, 16, 28, 28, Options(7), BF16)
    for count in range(6):
        call.results("cuda", "cuda")
        torch.cuda.synchronize()
        if count == 2:
            before = torch.cuda.memory_allocated()
    assert torch.cuda.memory_allocated() <= before
