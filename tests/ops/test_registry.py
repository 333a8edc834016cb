"""The registry of back-ends dispatches, and the schemas of ops are those of exported graphs and the C++ library."""

from types import SimpleNamespace

import pytest
import torch

from helpers import block_inputs, local_inputs, normal
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
from sasa.ops.backends.base import Backend, FunctionBackend
from sasa.ops.norm_relu import Affine, NormBackward, NormForward
from sasa.ops.pointwise import PointwiseGradient
from sasa.ops.register import flatten, packer, schema_of

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
    Affine: "affine_(Tensor(a!) x, Tensor? gain, Tensor? shift, Tensor? residual, bool relu) -> ()",
}


@pytest.mark.parametrize(("arguments", "schema"), SCHEMAS.items(), ids=[a.__name__ for a in SCHEMAS])
def test_schemas_stay_and_their_arguments_are_the_fields(arguments, schema):
    op = getattr(torch.ops.sasa, schema.partition("(")[0]).default
    assert str(op._schema) == f"sasa::{schema}"
    parameters, _, results = schema.partition("(")[2].rpartition(") -> ")
    assert schema_of(arguments, results) == f"({parameters}) -> {results}", "without the library"
    names = [argument.name for argument in op._schema.arguments]
    packed = packer(arguments)(iter(names))
    assert list(flatten(packed)) == names
    for part in (packed, *(p for p in packed if isinstance(p, tuple))):
        for field, value in zip(part._fields, part, strict=True):
            assert isinstance(value, tuple) or value == field


class Marked(Exception):  # noqa: N818 - not an error but a marker
    """Raised by the functions of one back-end."""


def raises_mark(*_):
    raise Marked


MARKING = SimpleNamespace(forward=raises_mark, backward=raises_mark)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("operator", "tensors"), [(local, local_inputs(*LOCAL_SHAPE)), (block, block_inputs(*BLOCK_SHAPE))]
)
def test_the_requested_back_end_runs(monkeypatch, name, operator, tensors):
    kind = type(BACKENDS[name])
    monkeypatch.setattr(kind, "why_not", lambda *_: None)
    if issubclass(kind, FunctionBackend):
        monkeypatch.setattr(kind, "functions", lambda *_: MARKING)
    else:
        monkeypatch.setattr(kind, "attend", raises_mark)
    with pytest.raises(Marked):
        operator(*tensors, backend=name)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_has_its_own_name(name):
    assert BACKENDS[name].name == name
    assert isinstance(BACKENDS[name], Backend)


def test_a_new_entry_does_not_fall_through(monkeypatch):
    """Only its functions run."""
    ran = []

    def forward(call):
        ran.append(call)
        raise Marked

    class New(FunctionBackend):
        name, summary = "new", "of this test"

        def why_not(self, inputs=None, options=None):
            return None if options is None or options.num_heads == 2 else f"num_heads ({options.num_heads}) is not 2"

        def functions(self, name):
            assert name == "local_attention"
            return SimpleNamespace(forward=forward)

    query, key, value, row, col = tensors = local_inputs(*LOCAL_SHAPE)
    monkeypatch.setitem(BACKENDS, "new", New())
    with pytest.raises(Marked):
        local(*tensors, backend="new")
    (call,) = ran
    assert call == LocalForward(LocalInputs(query, key, value, row, col), LocalOptions(3, 2, "zeros", 1.0))
    one = normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"backend 'new' cannot run here: num_heads \(1\) is not 2"):
        local(one, one, one, None, None, num_heads=1, backend="new")


def test_kernels_refuse_tensors_of_other_devices():
    image, w_query = torch.empty(1, 3, 4, 4, device="meta"), torch.empty(8, 3, device="meta")
    inputs = BlockInputs(image, w_query, w_query, None, None, None, image)
    reason = BACKENDS["cpu"].why_not(inputs, BlockOptions(4, 2, 1.0))
    assert reason == "image is on meta, and these kernels run on CPU tensors"
