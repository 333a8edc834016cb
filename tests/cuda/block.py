"""Block attention by the kernels of csrc/cuda/block_*.cuh, in emulation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cuda.plans import plan, run
from cuda.structs import (
    STORAGE,
    BlockBackward,
    BlockForward,
    BlockPlan,
    BlockShape,
    BlockWorkspace,
    Map,
    SumParts,
    address,
)
from sasa.ops.precision import compute_dtype, empty_map

NAN = float("nan")


@dataclass(frozen=True)
class BlockInputs:
    """The inputs of every call: maps in their own layout, weights contiguous and in the compute dtype."""

    image: Tensor
    weights: tuple[Tensor | None, ...]  # w_query, w_key, w_value, rel_row, rel_col
    value: Tensor | None
    shape: BlockShape

    @classmethod
    def of(cls, image, *rest, block_size: int, num_heads: int, scale: float = 1.0, content: bool = True):
        *weights, value = rest
        assert content == (weights[1] is not None)
        dtype = compute_dtype(image)
        channels = weights[2].shape[1] if value is None else value.shape[1]
        batch, image_channels, height, width = image.shape
        shape = BlockShape(
            batch, image_channels, height, width, num_heads, weights[0].shape[0] // num_heads, channels // num_heads,
            block_size, scale, STORAGE[image.dtype],
        )  # fmt: skip
        return cls(image, tuple(None if w is None else w.to(dtype).contiguous() for w in weights), value, shape)

    @property
    def channels(self) -> int:
        return self.shape.heads * self.shape.value_dim

    @property
    def pooled_size(self) -> tuple[int, int]:
        return -(-self.shape.height // self.shape.block), -(-self.shape.width // self.shape.block)

    def call(self, kind):
        call = kind(shape=self.shape, image=Map.of(self.image), value=Map.of(self.value))
        for name, weight in zip("w_query w_key w_value rel_row rel_col".split(), self.weights, strict=True):
            setattr(call, name, address(weight))
        return call

    def new(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.full(size, NAN, dtype=dtype or compute_dtype(self.image))

    def new_map(self, like: Tensor, channels: int, **options) -> Tensor:
        made = empty_map(like, channels, **options)
        return made.fill_(255 if made.dtype == torch.uint8 else NAN)

    @property
    def reads(self) -> list[Tensor | None]:
        return [self.image, *self.weights, self.value]


def forward(image: Tensor, *weights: Tensor | None, counts=None, **options) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp."""
    inputs = BlockInputs.of(image, *weights, **options)
    output = inputs.new_map(image, inputs.channels)
    logsumexp = inputs.new(image.shape[0], inputs.shape.heads, *image.shape[2:])
    call = inputs.call(BlockForward)
    call.output, call.logsumexp = Map.of(output), logsumexp.data_ptr()
    _run_forward(inputs, call, [output, logsumexp], counts)
    return output, logsumexp


def pooled(
    image: Tensor, *weights: Tensor | None, sign: Tensor, with_sums: bool = True, counts=None, **options
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Extremes, positions and sums."""
    inputs = BlockInputs.of(image, *weights, **options)
    extreme = inputs.new_map(image, inputs.channels, size=inputs.pooled_size)
    position = inputs.new_map(image, inputs.channels, dtype=torch.uint8, size=inputs.pooled_size)
    sums = inputs.new(2, inputs.channels, dtype=torch.float64) if with_sums else None
    sign = sign.to(compute_dtype(image)).contiguous()
    call = inputs.call(BlockForward)
    call.extreme, call.position, call.sign, call.sums = Map.of(extreme), Map.of(position), address(sign), address(sums)
    _run_forward(inputs, call, [extreme, position, sign], counts, sums)
    return extreme, position, sums


def _run_forward(inputs: BlockInputs, call: BlockForward, results, counts, sums: Tensor | None = None) -> None:
    planned = plan("block_forward", call, BlockPlan)
    folded = inputs.new(planned.folded_elements)
    parts = None if sums is None else inputs.new(planned.parts, planned.elements, dtype=torch.float64)
    workspace = BlockWorkspace(folded=folded.data_ptr(), sums=address(parts))
    run(planned.fold, call, workspace, reads=inputs.reads, writes=[folded])
    run(planned.attend, call, workspace, reads=[*inputs.reads, folded], writes=[*results, parts], counts=counts)
    if sums is not None and parts is not None:
        add = SumParts(parts.data_ptr(), sums.data_ptr(), *parts.shape)
        run(planned.sum, add, reads=[parts], writes=[sums])


def backward(grad_output: Tensor, image: Tensor, *weights: Tensor | None, **options) -> list[Tensor | None]:
    """Gradients of image, w_query, w_key, w_value, rel_row, rel_col and value."""
    return _run_backward({"grad_output": grad_output}, None, image, *weights, **options)


def pooled_backward(
    grad_extreme: Tensor, grad_sums: Tensor, position: Tensor, image: Tensor, *weights: Tensor | None, **options
) -> list[Tensor | None]:
    """The same gradients, for block attention fused with pooling."""
    return _run_backward(
        {"grad_extreme": grad_extreme, "position": position}, grad_sums.double(), image, *weights, **options
    )


def _run_backward(
    grads: dict[str, Tensor], grad_sums: Tensor | None, image: Tensor, *weights: Tensor | None,
    image_gradient: bool = True, counts=None, **options,
) -> list[Tensor | None]:  # fmt: skip
    inputs = BlockInputs.of(image, *weights, **options)
    grad_image = inputs.new_map(image, image.shape[1]) if image_gradient else None
    grad_value = None if inputs.value is None else inputs.new_map(inputs.value, inputs.channels)
    grad_weights = [None if w is None else torch.full_like(w, NAN) for w in inputs.weights]
    call = inputs.call(BlockBackward)
    for name, grad in grads.items():
        setattr(call, name, Map.of(grad))
    call.grad_sums, call.grad_image, call.grad_value = address(grad_sums), Map.of(grad_image), Map.of(grad_value)
    for name, grad in zip("w_query w_key w_value row col".split(), grad_weights, strict=True):
        setattr(call, f"grad_{name}", address(grad))
    planned = plan("block_backward", call, BlockPlan)
    folded, total = inputs.new(planned.folded_elements), inputs.new(planned.elements)
    parts = inputs.new(planned.parts, planned.elements)
    workspace = BlockWorkspace(folded.data_ptr(), None, parts.data_ptr(), total.data_ptr())
    run(planned.fold, call, workspace, reads=inputs.reads, writes=[folded])
    run(
        planned.attend, call, workspace, reads=[*inputs.reads, folded, grad_sums, *grads.values()],
        writes=[grad_image, grad_value, parts], counts=counts,
    )  # fmt: skip
    run(planned.sum, SumParts(parts.data_ptr(), total.data_ptr(), *parts.shape), reads=[parts], writes=[total])
    run(planned.unfold, call, workspace, reads=[*inputs.reads, total], writes=grad_weights)
    return [grad_image, *grad_weights, grad_value]
