"""Our operators as plain tensor operations, with which `torch.onnx.export` replaces those that it does not know.

`import sasa` imports this module as soon as `torch.onnx` is imported, so that networks with our layers export as any
other network does.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.errors import SasaError
from sasa.export import blocks, tiles
from sasa.ops.arguments import BlockForward, LocalForward, PooledForward, QkvForward, QkvInference
from sasa.ops.norm_relu import scaled
from sasa.ops.precision import is_channels_last
from sasa.ops.register import packer, with_flat_arguments


def _in_layout_of(like: Tensor, map_BCHW: Tensor) -> Tensor:
    """Return the map in the memory layout that the op's result has, as tracing by torch relies on it."""
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return map_BCHW.contiguous(memory_format=layout)


def _local(call: LocalForward) -> tuple[Tensor, Tensor]:
    output, logsumexp = tiles.local_attention(call.inputs, call.options)
    return _in_layout_of(call.inputs.query, output), logsumexp.contiguous()


def _qkv(call: QkvForward) -> tuple[Tensor, Tensor]:
    output, logsumexp = tiles.local_attention(*call.local)
    return _in_layout_of(call.inputs.qkv, output), logsumexp.contiguous()


def _inference(call: QkvInference) -> Tensor:
    y, _ = tiles.local_attention(*call.forward.local)
    gain, shift, relu, pool = call.epilogue
    if pool > 1:
        y = F.avg_pool2d(y, pool, ceil_mode=True, count_include_pad=False)
    y = scaled(y, gain, shift)
    return _in_layout_of(call.inputs.qkv, (y.relu() if relu else y).to(call.inputs.qkv.dtype))


def _block(call: BlockForward) -> tuple[Tensor, Tensor]:
    output, logsumexp = blocks.block_attention(call.inputs, call.options)
    return _in_layout_of(call.inputs.image, output), logsumexp.contiguous()


def _pooled(call: PooledForward) -> tuple[Tensor, Tensor, Tensor]:
    extreme, position, sums = blocks.block_attention_pooled(*call)
    return _in_layout_of(call.inputs.image, extreme), _in_layout_of(call.inputs.image, position), sums


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.sasa.local_attention.default: with_flat_arguments(_local, packer(LocalForward)),
    torch.ops.sasa.qkv_attention.default: with_flat_arguments(_qkv, packer(QkvForward)),
    torch.ops.sasa.qkv_attention_inference.default: with_flat_arguments(_inference, packer(QkvInference)),
    torch.ops.sasa.block_attention.default: with_flat_arguments(_block, packer(BlockForward)),
    torch.ops.sasa.block_attention_pooled.default: with_flat_arguments(_pooled, packer(PooledForward)),
}
OLDEST_OPSET = 9  # of the exporter that works by torch.jit.trace


def register() -> None:
    """Give the decompositions to the ONNX exporter alone, and an error to the old exporter that cannot use them.

    Torch's global table of decompositions is left as it is: what is in it also changes what `torch.compile` and fake
    tensors make of an op.
    """
    from torch.onnx import register_custom_op_symbolic  # pyright: ignore[reportPrivateImportUsage]
    from torch.onnx._internal.exporter import _decomp

    table_of_torch = _decomp.create_onnx_friendly_decomposition_table

    def table_with_ours(onnx_registered_ops: set[Any]) -> dict[Any, Callable[..., Any]]:
        return {**table_of_torch(onnx_registered_ops), **DECOMPOSITIONS}

    _decomp.create_onnx_friendly_decomposition_table = table_with_ours
    for op in DECOMPOSITIONS:
        register_custom_op_symbolic(op.name().partition(".")[0], _refuse, OLDEST_OPSET)


def _refuse(*_: Any) -> NoReturn:
    raise SasaError("torch.onnx.export with dynamo=False cannot export local attention: leave dynamo=False out")
