"""The registry of back-ends dispatches, and the schemas of ops are those of exported graphs and the C++ library."""

import pytest
import torch

from helpers import HERE, block_inputs, local_inputs, normal
from operators import BLOCK_SHAPE, LOCAL_SHAPE, block, local
from sasa.ops.arguments import (
    BlockBackward,
    BlockForward,
    BlockInputs,
    BlockOptions,
    LocalBackward,
    LocalForward,
    LocalInputs,
    LocalOptions,
    PooledBackward,
    PooledForward,
    QkvBackward,
    QkvForward,
    QkvInference,
)
from sasa.ops.backends import BACKENDS
from sasa.ops.backends.base import Backend, DispatcherBackend, FunctionBackend
from sasa.ops.norm_relu import NormBackward, NormForward
from sasa.ops.pointwise import PointwiseGradient
from sasa.ops.register import flatten, packer

# Exported graphs of older versions and csrc/ depend on this text.
SCHEMAS = {
    LocalForward: "local_attention(Tensor query, Tensor? key, Tensor value, Tensor? rel_row, Tensor? rel_col, "
    "int kernel_size, int num_heads, str padding, float scale) -> (Tensor output, Tensor logsumexp)",
    LocalBackward: "local_attention_backward(Tensor grad_output, Tensor query, Tensor? key, Tensor value, "
    "Tensor? rel_row, Tensor? rel_col, Tensor logsumexp, int kernel_size, int num_heads, str padding, float scale) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    QkvForward: "qkv_attention(Tensor qkv, Tensor? rel_row, Tensor? rel_col, int kernel_size, int num_heads, "
    "bool content, str padding, float scale) -> (Tensor output, Tensor logsumexp)",
    QkvBackward: "qkv_attention_backward(Tensor grad_output, Tensor qkv, Tensor? rel_row, Tensor? rel_col, "
    "Tensor logsumexp, int kernel_size, int num_heads, bool content, str padding, float scale) "
    "-> (Tensor, Tensor, Tensor)",
    QkvInference: "qkv_attention_inference(Tensor qkv, Tensor? rel_row, Tensor? rel_col, Tensor? gain, "
    "Tensor? shift, bool relu, int pool, int kernel_size, int num_heads, bool content, str padding, float scale) "
    "-> Tensor",
    BlockForward: "block_attention(Tensor image, Tensor w_query, Tensor? w_key, Tensor? w_value, Tensor? rel_row, "
    "Tensor? rel_col, Tensor? value, int block_size, int num_heads, float scale) "
    "-> (Tensor output, Tensor logsumexp)",
    BlockBackward: "block_attention_backward(Tensor grad_output, Tensor image, Tensor w_query, Tensor? w_key, "
    "Tensor? w_value, Tensor? rel_row, Tensor? rel_col, Tensor? value, Tensor logsumexp, int block_size, "
    "int num_heads, float scale, bool image_gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    PooledForward: "block_attention_pooled(Tensor image, Tensor w_query, Tensor? w_key, Tensor? w_value, "
    "Tensor? rel_row, Tensor? rel_col, Tensor? value, Tensor sign, int block_size, int num_heads, float scale) "
    "-> (Tensor extreme, Tensor position, Tensor sums)",
    PooledBackward: "block_attention_pooled_backward(Tensor grad_extreme, Tensor grad_sums, Tensor position, "
    "Tensor image, Tensor w_query, Tensor? w_key, Tensor? w_value, Tensor? rel_row, Tensor? rel_col, "
    "Tensor? value, int block_size, int num_heads, float scale, bool image_gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    PointwiseGradient: "pointwise_gradient(Tensor grad, Tensor x) -> Tensor",
    NormForward: "norm_relu(Tensor x, Tensor weight, Tensor bias, Tensor? residual, bool relu, float eps) "
    "-> (Tensor y, Tensor mean, Tensor variance)",
    NormBackward: "norm_relu_backward(Tensor grad, Tensor x, Tensor? y, Tensor weight, Tensor bias, Tensor mean, "
    "Tensor variance, bool relu, float eps) -> (Tensor, Tensor, Tensor, Tensor)",
}


@pytest.mark.parametrize(("arguments", "schema"), SCHEMAS.items(), ids=[a.__name__ for a in SCHEMAS])
def test_schemas_stay_and_their_arguments_are_the_fields(arguments, schema):
    op = getattr(torch.ops.sasa, schema.partition("(")[0]).default
    assert str(op._schema) == f"sasa::{schema}"
    names = [argument.name for argument in op._schema.arguments]
    packed = packer(arguments)(iter(names))
    assert list(flatten(packed)) == names
    for part in (packed, *(p for p in packed if isinstance(p, tuple))):
        for field, value in zip(part._fields, part, strict=True):
            assert isinstance(value, tuple) or value == field


LOCAL, BLOCK = local_inputs(*LOCAL_SHAPE), block_inputs(*BLOCK_SHAPE)


class Marked(Exception):  # noqa: N818 - not an error but a marker
    """Raised by the functions of one back-end."""


def own_functions(backend: Backend) -> list[str]:
    """Names of the functions by which a back-end computes."""
    if isinstance(backend, FunctionBackend):
        return ["local_forward", "block_forward"]
    return ["local_attention", "block_attention"]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("operator", "tensors"), [(local, local_inputs(*LOCAL_SHAPE)), (block, block_inputs(*BLOCK_SHAPE))]
)
def test_the_requested_back_end_runs(monkeypatch, name, operator, tensors):
    def mark(*_):
        raise Marked

    kind = type(BACKENDS[name])
    monkeypatch.setattr(kind, "why_not", lambda *_: None)
    for function in own_functions(BACKENDS[name]):
        monkeypatch.setattr(kind, function, mark)
    with pytest.raises(Marked):
        operator(*tensors, backend=name)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_has_its_own_name(name):
    assert BACKENDS[name].name == name
    assert isinstance(BACKENDS[name], Backend)


def test_a_new_entry_does_not_fall_through(monkeypatch):
    """Without functions it cannot be instantiated; with them, only they run."""

    class New(FunctionBackend):
        name, summary = "new", "of this test"

        def why_not(self, inputs=None, options=None):
            return None if options is None or options.num_heads == 2 else f"num_heads ({options.num_heads}) is not 2"

    with pytest.raises(TypeError, match="abstract"):
        New()
    ran = []

    def forward(self, call):
        ran.append(call)
        raise Marked

    for function in ("local_forward", "local_backward", "block_forward", "block_backward"):
        setattr(New, function, forward)
    New.__abstractmethods__ = frozenset()
    monkeypatch.setitem(BACKENDS, "new", New())
    query, key, value, row, col = tensors = local_inputs(*LOCAL_SHAPE)
    with pytest.raises(Marked):
        local(*tensors, backend="new")
    (call,) = ran
    assert call == LocalForward(LocalInputs(query, key, value, row, col), LocalOptions(3, 2, "zeros", 1.0))
    one = normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"backend 'new' cannot run here: num_heads \(1\) is not 2"):
        local(one, one, one, None, None, num_heads=1, backend="new")


def test_a_library_without_kernels_is_not_a_back_end():
    """The dispatcher would run plain torch for it, and its tests would pass."""

    class Empty(DispatcherBackend):
        name, summary = "empty", "a library that registered nothing"
        device_type, dispatch_key = "cpu", "XPU"

        def missing(self):
            return None

    assert Empty().why_not() == "the library has registered no kernels for XPU tensors"


@pytest.mark.parametrize("name", [name for name in HERE if isinstance(BACKENDS[name], DispatcherBackend)])
def test_kernels_refuse_tensors_of_other_devices(name):
    image, w_query = torch.empty(1, 3, 4, 4, device="meta"), torch.empty(8, 3, device="meta")
    reason = BACKENDS[name].why_not(
        BlockInputs(image, w_query, w_query, None, None, None, image), BlockOptions(4, 2, 1.0)
    )
    kind = BACKENDS[name].device_type.upper()
    assert reason == f"image is on meta, and these kernels run on {kind} tensors"
