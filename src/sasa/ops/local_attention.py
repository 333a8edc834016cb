"""`sasa.ops.local_attention`: checks its arguments, chooses a back-end and calls it.

With backend="auto" it calls the dispatcher op `sasa::local_attention`, which runs the device's kernel, or `eager` on
devices without one. So exported and compiled graphs contain the op and not the choice.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D channels of a head.
"""

from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops import eager, flops, reference
from sasa.ops.arguments import LOCAL, LocalInputs, LocalOptions
from sasa.ops.backends import attend, cuda, triton
from sasa.ops.checks import check_dtypes, check_heads, check_kernel_size, check_padding, check_relative, check_same
from sasa.ops.precision import autocast_to
from sasa.ops.register import FunctionPair, register_attention, register_twins


def local_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    rel_row: Tensor | None = None,
    rel_col: Tensor | None = None,
    *,
    kernel_size: int,
    num_heads: int,
    padding: str = "zeros",
    scale: float = 1.0,
    content: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Compute local self-attention with 2-D relative positions, Eq. 3 of the paper.

    For pixel (i, j) and head n, over the K x K window of positions (a, b) centred on it::

        logit_ab = scale * (q_ij . k_ab + q_ij . r_{a-i, b-j})
        y_ij     = sum over ab of softmax_ab(logit) v_ab
        q . r    = q[:D/2] . rel_row[a-i] + q[D/2:] . rel_col[b-j]

    Args:
        query: (B, C, H, W), C = N * D; floating point; any strides, any H, W >= 1, also smaller than the window.
        key: (B, C, H, W), or None with `content=False`.
        value: (B, C_value, H, W); C_value may differ from C.
        rel_row: (N, K, D / 2), the embedding of a - i; index 0 is offset -(K // 2). float32 or query's dtype.
        rel_col: (N, K, D / 2), the embedding of b - j. Both embeddings or neither.
        kernel_size: K, odd.
        num_heads: N; heads are contiguous groups of channels.
        padding: "zeros": positions outside the map have zero keys and values and take part in the softmax.
            "mask": they are excluded.
        scale: factor of the logits; the paper has none.
        content: False leaves q.k out (Table 6 of the paper).
        backend: "auto", or "reference", "eager", "cpu", "cuda" or "triton" for tests and comparison. "auto" takes
            the kernels of the device, and "reference" under torch.func and in forward mode.

    Returns:
        (B, C_value, H, W) in query's dtype and layout. Arithmetic is in float32 or better.

    Raises:
        ArgumentError: (a ValueError) inconsistent shapes, dtypes or options; the message quotes both values.

    >>> query = key = value = torch.randn(1, 16, 5, 7)
    >>> sasa.ops.local_attention(query, key, value, kernel_size=3, num_heads=4).shape
    torch.Size([1, 16, 5, 7])
    """
    query, key, value = autocast_to(query.device, query, key, value)  # pyright: ignore[reportAssignmentType]
    inputs = LocalInputs(query, key, value, rel_row, rel_col)
    options = LocalOptions(kernel_size, num_heads, padding, float(scale))
    _check(inputs, options, content)
    return attend(LOCAL, inputs, options, backend)


def check_options(inputs: LocalInputs, options: LocalOptions) -> None:
    """Raise an `ArgumentError` for options that are impossible, or do not fit the channels and the embeddings."""
    query, _, value, rel_row, rel_col = inputs
    kernel_size, num_heads, padding, _ = options
    check_kernel_size(kernel_size)
    check_padding(padding)
    check_heads(query.shape[1], num_heads, "query channels", relative=rel_row is not None or rel_col is not None)
    check_heads(value.shape[1], num_heads, "value channels", relative=False)
    check_relative(rel_row, rel_col, (num_heads, kernel_size, query.shape[1] // num_heads // 2))


def _check(inputs: LocalInputs, options: LocalOptions, content: bool) -> None:
    query, key, value, rel_row, rel_col = inputs
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor is not None and tensor.dim() != 4:
            raise ArgumentError(f"{name} must be (batch, channels, height, width), got {tuple(tensor.shape)}")
    if query.shape[2] < 1 or query.shape[3] < 1:
        raise ArgumentError(f"the map must have at least one pixel, got {tuple(query.shape)}")
    check_same({"query": query, "key": key, "value": value})
    if content and key is None:
        raise ArgumentError("key is None with content=True: give a key, or leave q.k out with content=False")
    if not content and key is not None:
        raise ArgumentError("key is given with content=False, which leaves q.k out: key must be None")
    if not content and rel_row is None and rel_col is None:
        raise ArgumentError("content=False needs relative embeddings: without q.k and q.r there are no logits")
    if key is not None and key.shape != query.shape:
        raise ArgumentError(f"key {tuple(key.shape)} must have the shape of query {tuple(query.shape)}")
    expected = (query.shape[0], value.shape[1], *query.shape[2:])
    if tuple(value.shape) != expected:
        raise ArgumentError(
            f"value {tuple(value.shape)} must have the batch, height and width of query {tuple(query.shape)}"
        )
    check_options(inputs, options)
    check_dtypes(rel_row, rel_col, query)


register_attention(
    LOCAL,
    plain=eager,
    cuda=triton.dispatched("local_attention"),
    channels=lambda call: call.inputs.value.shape[1],
    flops=FunctionPair(flops.local_attention, flops.local_attention_backward),
    reference=reference.local_attention,
)
register_twins(cuda.NAMESPACE, LOCAL)
