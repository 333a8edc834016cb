"""`convolve` gives the results of nn.Conv2d in every case, and takes the kernel's gradient only where it may."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sasa
import sasa.nn.pointwise as pointwise
from helpers import NEEDS_KERNELS
from helpers import normal as normal_in
from sasa.nn.pointwise import convolve
from sasa.ops.pointwise import convolve_by_onednn as by_onednn
from sasa.ops.precision import is_rows

pytestmark = NEEDS_KERNELS
LAST = torch.channels_last


def make_conv(**options):
    torch.manual_seed(0)
    return nn.Conv2d(12, 20, **{"kernel_size": 1, "bias": False, **options}).to(memory_format=LAST)


def image(dtype=torch.float32):
    return normal_in(3, 12, 9, 7, seed=1, dtype=dtype).contiguous(memory_format=LAST)


def uses_kernel(y):
    return y.grad_fn is not None and y.grad_fn.name() == "PointwiseConvolutionBackward"


def gradients(function, conv, x):
    """The output, and the gradients of x and of the weights."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(x)
    grad = normal_in(*y.shape, seed=2, dtype=y.dtype)  # contiguous, as that of a flattening layer
    return y, *torch.autograd.grad(y, (x, conv.weight), grad)


@pytest.fixture(params=[1, 2])
def threads(request):
    """The number of threads during a test; on one, small batches take another way than torch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(3, 12, 9, 7), (2, 12, 1, 6), (17, 12, 8, 8)], ids=str)
def test_output_and_gradients(size, stride):
    conv = make_conv(stride=stride)
    x = normal_in(*size, seed=1, dtype=torch.float32).contiguous(memory_format=LAST)
    got, want = gradients(lambda x: convolve(conv, x), conv, x), gradients(conv, conv, x)
    assert uses_kernel(got[0])
    for one, expected in zip(got, want, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)
    assert is_rows(got[0])
    assert is_rows(got[1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "case", ["batch of 1", "batch of 15", "batch of 16", "stride", "contiguous", "gradient", "hook"]
)
def test_inference_by_onednn(case, bias, threads, monkeypatch):
    calls = []
    monkeypatch.setattr(pointwise, "convolve_by_onednn", lambda *inputs: calls.append(None) or by_onednn(*inputs))
    conv = make_conv(bias=bias, stride=2 if case == "stride" else 1)
    if case == "hook":
        conv.register_forward_hook(lambda *_: None)
    batch = int(case.rpartition(" ")[2]) if case.startswith("batch") else 3
    x = normal_in(batch, 12, 5, 7, dtype=torch.float32)
    x = x if case == "contiguous" else x.contiguous(memory_format=LAST)
    with torch.set_grad_enabled(case == "gradient"):
        got, want = convolve(conv, x), conv(x)
    assert bool(calls) == (threads == 1 and case in ("batch of 1", "batch of 15"))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert got.stride() == want.stride()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_not_finite_remains(stride, value):
    conv, x = make_conv(stride=stride), image()
    x[1, 3, 4, 2] = x[0, 2, 3, 3] = value  # of which a stride of 2 reads the first only
    for one, expected in zip(gradients(lambda x: convolve(conv, x), conv, x), gradients(conv, conv, x), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_the_gradient_has_the_strides_of_the_weights(layout):
    conv = make_conv().to(memory_format=layout)
    convolve(conv, image()).square().sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()  # else DistributedDataParallel warns, and copies


@pytest.mark.parametrize("stride", [1, 2])
def test_second_derivatives(stride):
    conv, x = make_conv(stride=stride), image()

    def penalty(function):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = function(leaf).square().sum()
        grads = torch.autograd.grad(y, (leaf, conv.weight), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), (leaf, conv.weight))

    for got, want in zip(penalty(lambda x: convolve(conv, x)), penalty(conv), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "case",
    ["strides", "padding", "groups", "bias", "3 x 3", "contiguous", "float64", "bfloat16", "frozen", "no grad", "hook",
     "autocast", "subclass"],
)  # fmt: skip
def test_other_convolutions_are_torchs(case):
    options = {"strides": {"stride": (1, 2)}, "padding": {"padding": 1}, "groups": {"groups": 2},
               "bias": {"bias": True}, "3 x 3": {"kernel_size": 3}}  # fmt: skip
    conv, x = make_conv(**options.get(case, {})), image()
    if case == "contiguous":
        x = x.contiguous()
    elif case in ("float64", "bfloat16"):
        conv, x = conv.to(getattr(torch, case)), x.to(getattr(torch, case))
    elif case == "frozen":
        conv.requires_grad_(False)
    elif case == "hook":
        conv.register_forward_hook(lambda *_: None)
    elif case == "subclass":
        conv.__class__ = type("Conv2d", (nn.Conv2d,), {})
    with torch.set_grad_enabled(case != "no grad"), torch.autocast("cpu", enabled=case == "autocast"):
        y = convolve(conv, x.requires_grad_())
        assert not uses_kernel(y)
        torch.testing.assert_close(y, conv(x), rtol=1e-5, atol=1e-5)


def test_traces_contain_the_layer():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = make_conv()

        def forward(self, x):
            return convolve(self.conv, x)

    graph = torch.fx.symbolic_trace(Network()).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


def test_wrong_channels_are_torchs_error():
    with pytest.raises(RuntimeError, match=r"expected input.* to have 12 channels"):
        convolve(make_conv(), image()[:, :8].contiguous(memory_format=LAST))


def test_a_step_of_a_network():
    torch.manual_seed(0)
    model = sasa.create_model("sasa_resnet26", width=0.25, num_classes=5, num_heads=2).to(memory_format=LAST)
    other = copy.deepcopy(model)
    for module in other.modules():  # watched modules are called
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: None)
    x = normal_in(2, 3, 64, 64, seed=3, dtype=torch.float32).contiguous(memory_format=LAST)
    for network in (model, other):
        network(x).square().sum().backward()
    for one, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert (one.grad - expected.grad).norm() <= 1e-4 * expected.grad.norm() + 1e-6


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_the_gradients_are_counted(stride, threads):
    conv, x = make_conv(stride=stride), image().requires_grad_()
    counts = []
    for function in (lambda x: convolve(conv, x), conv):
        y = function(x)
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
