"""The back-end "triton": kernels in Triton for CUDA tensors. Triton is imported on use, because that takes a second."""

import importlib

from sasa.ops.arguments import BackwardCall, BlockInputs, BlockOptions, ForwardCall, LocalInputs
from sasa.ops.backends import plain
from sasa.ops.backends.base import FunctionBackend, Inputs, Options
from sasa.ops.gpu import available
from sasa.ops.gpu.available import LARGEST_BLOCK, MOST_HEAD_CHANNELS, MOST_IMAGE_CHANNELS, MOST_VALUES, is_wide
from sasa.ops.register import FunctionPair, Functions


class TritonBackend(FunctionBackend):
    """Triton on a GPU; with TRITON_INTERPRET=1 in its interpreter, on CPU tensors."""

    name = "triton"
    summary = "Triton kernels for CUDA tensors; what auto runs there unless SASA_GPU is cuda"

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """Check for Triton, a GPU, a dtype that tensor cores support, and heads small enough to stay in registers."""
        if inputs is None or options is None:
            return available.why_not(None)
        reason = available.why_not(inputs[0])
        if reason is not None:
            return reason
        if isinstance(inputs, LocalInputs):
            return _why_not_local(inputs, options.num_heads)
        assert isinstance(options, BlockOptions)
        return _why_not_block(inputs, options)

    def functions(self, name: str) -> Functions:
        """The module that launches the operator's kernels, imported at the first call."""
        module = "local_launch" if name == "local_attention" else "block_launch"
        return importlib.import_module(f"sasa.ops.gpu.{module}")  # pyright: ignore[reportReturnType]


def _why_not_local(inputs: LocalInputs, num_heads: int) -> str | None:
    largest = max(inputs.query.shape[1], inputs.value.shape[1]) // num_heads
    if largest > MOST_HEAD_CHANNELS:
        return f"a head has {largest} channels, and these kernels hold at most {MOST_HEAD_CHANNELS}"
    return None


def _why_not_block(inputs: BlockInputs, options: BlockOptions) -> str | None:
    image = inputs.image
    for name, size, most in (
        ("block_size", options.block_size, LARGEST_BLOCK),
        ("image channels", image.shape[1], MOST_IMAGE_CHANNELS),
        ("value channels of a head", inputs.value_channels // options.num_heads, MOST_VALUES),
    ):
        if size > most:
            return f"{name} ({size}) may be at most {most} in the Triton kernels of block attention"
    wide = any(is_wide(map_) for map_ in (image, inputs.value) if map_ is not None)
    if wide or MOST_VALUES * image.shape[2] * image.shape[3] >= 2**31:
        return "a head of the image has 2**31 elements or more, too many for the Triton kernels of block attention"
    return None


BACKEND = TritonBackend()


def for_call(call: ForwardCall | BackwardCall) -> FunctionBackend:
    """Return the back-end of the dispatcher ops for CUDA tensors: Triton if it can run the call, else plain torch."""
    return BACKEND if BACKEND.why_not(call.inputs, call.options) is None else plain.EAGER


def dispatched(name: str) -> FunctionPair:
    """Return the functions of a dispatcher op for CUDA tensors, each by the back-end `for_call` of its call."""
    return FunctionPair(
        lambda call: for_call(call).functions(name).forward(call),
        lambda call: for_call(call).functions(name).backward(call),
    )
