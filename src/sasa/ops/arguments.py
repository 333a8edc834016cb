"""Arguments of the operators as named tuples: inputs (tensors that may need gradients) and options (numbers, strings).

Every implementation takes these tuples. A dispatcher op has one flat list of arguments, which `register` packs.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D query and E value channels of a head, S the
block size, P = S * S the pixels of a block.
"""

from typing import Any, NamedTuple

from torch import Tensor


class LocalInputs(NamedTuple):
    """Tensors of Eq. 3."""

    query: Tensor  # (B, N * D, H, W)
    key: Tensor | None  # the same; None without content
    value: Tensor  # (B, N * E, H, W)
    rel_row: Tensor | None  # (N, K, D / 2), index 0 is offset -(K // 2); both embeddings or neither
    rel_col: Tensor | None


class LocalOptions(NamedTuple):
    """Options of Eq. 3."""

    kernel_size: int
    num_heads: int
    padding: str
    scale: float


class LocalBackward(NamedTuple):
    """Arguments of the op `sasa::local_attention_backward`."""

    grad_output: Tensor  # (B, N * E, H, W)
    inputs: LocalInputs
    logsumexp: Tensor  # (B, N, H, W), of the logits; float32 or better
    options: LocalOptions


class LocalForward(NamedTuple):
    """Arguments of the op `sasa::local_attention`."""

    inputs: LocalInputs
    options: LocalOptions


class BlockInputs(NamedTuple):
    """Tensors of Eq. 7-8. Values come from w_value or, as a map, from value."""

    image: Tensor  # (B, C, H, W)
    w_query: Tensor  # (N * D, C)
    w_key: Tensor | None  # the same; None without content
    w_value: Tensor | None  # (P, N * E, C)
    rel_row: Tensor | None  # (N, 2 * S - 1, D / 2), index 0 is offset -(S - 1); both embeddings or neither
    rel_col: Tensor | None
    value: Tensor | None  # (B, N * E, H, W)

    @property
    def value_channels(self) -> int:
        """N * E, from w_value or value."""
        if self.value is not None:
            return self.value.shape[1]
        assert self.w_value is not None
        return self.w_value.shape[1]


class BlockOptions(NamedTuple):
    """Options of Eq. 7-8."""

    block_size: int
    num_heads: int
    scale: float


class BlockForward(NamedTuple):
    """Arguments of the op `sasa::block_attention`."""

    inputs: BlockInputs
    options: BlockOptions


class BlockBackward(NamedTuple):
    """Arguments of the op `sasa::block_attention_backward`."""

    grad_output: Tensor  # (B, N * E, H, W)
    inputs: BlockInputs
    logsumexp: Tensor  # (B, N, H, W), of the logits; float32 or better
    options: BlockOptions
    image_gradient: bool  # whether the image needs one


ForwardCall = LocalForward | BlockForward
BackwardCall = LocalBackward | BlockBackward


class PooledForward(NamedTuple):
    """Arguments of the op `sasa::block_attention_pooled`."""

    inputs: BlockInputs
    sign: Tensor  # (N * E,): a channel is pooled by its maximum where this is >= 0, else by its minimum
    options: BlockOptions


class PooledBackward(NamedTuple):
    """Arguments of the op `sasa::block_attention_pooled_backward`."""

    grad_extreme: Tensor  # (B, N * E, ceil(H / S), ceil(W / S))
    grad_sums: Tensor  # (2, N * E)
    position: Tensor  # of each extreme in its block, uint8, shaped as grad_extreme
    inputs: BlockInputs
    options: BlockOptions
    image_gradient: bool


class QkvInputs(NamedTuple):
    """Tensors of Eq. 3 with queries, keys and values concatenated in one map."""

    qkv: Tensor  # (B, 3 * N * D, H, W), without content (B, 2 * N * D, H, W)
    rel_row: Tensor | None  # (N, K, D / 2)
    rel_col: Tensor | None


class QkvOptions(NamedTuple):
    """`LocalOptions`, and whether the map holds keys."""

    kernel_size: int
    num_heads: int
    content: bool
    padding: str
    scale: float


class QkvForward(NamedTuple):
    """Arguments of the op `sasa::qkv_attention`."""

    inputs: QkvInputs
    options: QkvOptions

    @property
    def local(self) -> LocalForward:
        """Return the arguments of the equivalent `sasa::local_attention` call: views, without a copy."""
        qkv, rel_row, rel_col = self.inputs
        return LocalForward(
            LocalInputs(*split(qkv, self.options.content), rel_row, rel_col), local_options(self.options)
        )


class QkvBackward(NamedTuple):
    """Arguments of the op `sasa::qkv_attention_backward`."""

    grad_output: Tensor
    inputs: QkvInputs
    logsumexp: Tensor
    options: QkvOptions

    @property
    def local(self) -> LocalBackward:
        """Return the arguments of the equivalent `sasa::local_attention_backward` call: views, without a copy."""
        inputs, options = QkvForward(self.inputs, self.options).local
        return LocalBackward(self.grad_output, inputs, self.logsumexp, options)


class Epilogue(NamedTuple):
    """Operations after attention in inference: mean of pool x pool pixels (fewer at an odd border), norm, ReLU."""

    gain: Tensor | None  # (N * D,), float32 (float64 with qkv); None for 1
    shift: Tensor | None  # the same; None for 0
    relu: bool
    pool: int  # 1 or 2


class QkvInference(NamedTuple):
    """Arguments of the op `sasa::qkv_attention_inference`."""

    inputs: QkvInputs
    epilogue: Epilogue
    options: QkvOptions

    @property
    def forward(self) -> QkvForward:
        """Return the arguments of the attention before the epilogue."""
        return QkvForward(self.inputs, self.options)


def split(qkv: Tensor, content: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Views of q, k (None without content) and v, (B, N * D, H, W) each."""
    if content:
        query, key, value = qkv.chunk(3, dim=1)
        return query, key, value
    query, value = qkv.chunk(2, dim=1)
    return query, None, value


def local_options(options: QkvOptions) -> LocalOptions:
    """The options that `local_attention` has too."""
    return LocalOptions(options.kernel_size, options.num_heads, options.padding, options.scale)


class Calls(NamedTuple):
    """The named tuples of an attention operator: its inputs, and its calls forward and backward."""

    name: str
    inputs: type[Any]
    forward: type[Any]
    backward: type[Any]

    def gradient(self, grad_output: Tensor, inputs: Any, logsumexp: Tensor, options: Any, image_gradient: bool) -> Any:
        """Return the backward call."""
        return self.backward(grad_output, inputs, logsumexp, options, *self.needs(image_gradient))

    def needs(self, image_gradient: bool) -> tuple[bool, ...]:
        """Return the last arguments of a backward call: for block attention, whether the image needs a gradient."""
        return (image_gradient,) if self.backward is BlockBackward else ()


LOCAL = Calls("local_attention", LocalInputs, LocalForward, LocalBackward)
BLOCK = Calls("block_attention", BlockInputs, BlockForward, BlockBackward)
QKV = Calls("qkv_attention", QkvInputs, QkvForward, QkvBackward)
