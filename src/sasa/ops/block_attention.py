"""`sasa.ops.block_attention`: checks its arguments, chooses a back-end and calls it.

It takes pixels and weights, so that a kernel does not have to write queries, keys and values at full resolution.

Shapes: B batch, C image channels, H x W the image, N heads, D query channels and E value channels of a head,
S the block size, P = S * S the pixels of a block.
"""

from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops import eager_block, flops, reference
from sasa.ops.arguments import BLOCK, BlockInputs, BlockOptions
from sasa.ops.backends import attend, cuda, triton
from sasa.ops.checks import check_dtypes, check_heads, check_positive, check_relative, check_same
from sasa.ops.precision import autocast_to
from sasa.ops.register import FunctionPair, register_attention, register_twins


def block_attention(
    image: Tensor,
    w_query: Tensor,
    w_key: Tensor | None,
    w_value: Tensor | None,
    rel_row: Tensor | None = None,
    rel_col: Tensor | None = None,
    *,
    block_size: int,
    num_heads: int,
    value: Tensor | None = None,
    scale: float = 1.0,
    content: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Compute the stem's attention inside each block, Section 3.2 and Eq. 7-8 with relative positions.

    For pixels p and s of one block and head n::

        logit_ps = scale * (q_p . k_s + q_p . r_{s - p}),   q = w_query x,   k = w_key x
        y_p      = sum over s of softmax_s(logit) w_value[s] x_s

    Args:
        image: (B, C, H, W). Its sides may be any length: in a partial block the pixels beyond the image are masked.
        w_query: (N * D, C).
        w_key: (N * D, C), or None with `content=False`.
        w_value: (P, N * E, C), the value matrix of each position of the block, row by row, already mixed
            (Eq. 8-9: the mixture depends only on the position); None where `value` is given.
        rel_row: (N, 2 * S - 1, D / 2), the embedding of the row offset; index 0 is offset -(S - 1).
        rel_col: (N, 2 * S - 1, D / 2), of the column offset. Both or neither; float32 or image's dtype.
        block_size: S.
        num_heads: N.
        value: (B, N * E, H, W), values as a map in place of w_value (Table 7: values by a spatial convolution).
        scale: factor of the logits.
        content: False leaves q.k out.
        backend: as for `local_attention`.

    Returns:
        (B, N * E, H, W) in image's dtype and layout.

    Raises:
        ArgumentError: (a ValueError) inconsistent shapes, dtypes or options; the message quotes both values.

    >>> image, w = torch.randn(1, 3, 8, 6), torch.randn(8, 3)
    >>> sasa.ops.block_attention(image, w, w, w.expand(16, 8, 3), block_size=4, num_heads=2).shape
    torch.Size([1, 8, 8, 6])
    """
    image, w_query, w_key, w_value, value = autocast_to(image.device, image, w_query, w_key, w_value, value)  # pyright: ignore
    inputs = BlockInputs(image, w_query, w_key, w_value, rel_row, rel_col, value)
    options = BlockOptions(block_size, num_heads, float(scale))
    _check(inputs, options, content)
    return attend(BLOCK, inputs, options, backend)


def _check(inputs: BlockInputs, options: BlockOptions, content: bool) -> None:
    image, w_query, w_key, w_value, rel_row, rel_col, value = inputs
    block_size, num_heads, _ = options
    check_positive(block_size, "block_size")
    if image.dim() != 4 or image.shape[2] < 1 or image.shape[3] < 1:
        raise ArgumentError(f"image must be (batch, channels, height, width), got {tuple(image.shape)}")
    check_same({"image": image, "w_query": w_query, "w_key": w_key, "w_value": w_value, "value": value})
    channels = image.shape[1]
    relative = rel_row is not None or rel_col is not None
    if content == (w_key is None):
        raise ArgumentError(
            f"w_key is {'None' if w_key is None else 'given'} and content is {content}: give both or neither"
        )
    if not content and not relative:
        raise ArgumentError("content=False needs relative embeddings: without q.k and q.r there are no logits")
    for name, weight in (("w_query", w_query), ("w_key", w_key)):
        if weight is not None and (weight.dim() != 2 or tuple(weight.shape) != (w_query.shape[0], channels)):
            expected = (w_query.shape[0], channels)
            raise ArgumentError(f"{name} {tuple(weight.shape)} must be (out channels, image channels) = {expected}")
    check_heads(w_query.shape[0], num_heads, "query channels", relative=relative)
    if (w_value is None) == (value is None):
        raise ArgumentError("give either w_value (a matrix for each position) or value (a map), and not both")
    if w_value is not None:
        expected = (block_size**2, w_value.shape[-2] if w_value.dim() == 3 else -1, channels)
        if tuple(w_value.shape) != expected:
            raise ArgumentError(
                f"w_value {tuple(w_value.shape)} must be (block_size ** 2 = {block_size**2}, out channels, "
                f"image channels = {channels})"
            )
        check_heads(w_value.shape[1], num_heads, "value channels", relative=False)
    if value is not None:
        expected = (image.shape[0], *image.shape[2:])
        if value.dim() != 4 or (value.shape[0], *value.shape[2:]) != expected:
            raise ArgumentError(
                f"value {tuple(value.shape)} must have the batch, height and width of image {tuple(image.shape)}"
            )
        check_heads(value.shape[1], num_heads, "value channels", relative=False)
    head_dim = w_query.shape[0] // num_heads
    check_relative(rel_row, rel_col, (num_heads, 2 * block_size - 1, head_dim // 2))
    check_dtypes(rel_row, rel_col, image)


register_attention(
    BLOCK,
    plain=eager_block,
    cuda=triton.dispatched("block_attention"),
    channels=lambda call: call.inputs.value_channels,
    flops=FunctionPair(flops.block_attention, flops.block_attention_backward),
    reference=reference.block_attention,
)
register_twins(cuda.NAMESPACE, BLOCK)
