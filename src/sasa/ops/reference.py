"""The equations in plain torch: every other back-end is compared with these functions.

Written to be read, not to be fast: all windows are gathered (as views) and each line is one term of Eq. 3.
Any device and dtype; float16 and bfloat16 are computed in float32. Differentiable to any order, in reverse and forward
mode and under the transforms of torch.func, so the other back-ends fall back to them there.

Shapes: B batch, N heads, D query and key channels of a head, E value channels of a head, H x W the map,
K the kernel size (window rows R and columns C, both of length K), P pixels of a block, I x J blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops.arguments import BlockInputs, BlockOptions, LocalInputs, LocalOptions
from sasa.ops.precision import compute_dtype, without_autocast


def window_view(map_BCHW: Tensor, kernel_size: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W, K, K): the window centred on every pixel, zeros outside the map. A view."""
    half = kernel_size // 2
    padded = F.pad(map_BCHW, (half, half, half, half))
    return padded.unfold(2, kernel_size, 1).unfold(3, kernel_size, 1)


def split_heads(map_BCHW: Tensor, num_heads: int) -> Tensor:
    """(B, N * D, H, W) -> (B, N, D, H, W): heads are contiguous groups of channels."""
    return map_BCHW.unflatten(1, (num_heads, map_BCHW.shape[1] // num_heads))


def head_windows(map_BCHW: Tensor, options: LocalOptions) -> Tensor:
    """(B, N * D, H, W) -> (B, N, D, H, W, K, K): the window around each pixel, for each head."""
    heads = split_heads(map_BCHW, options.num_heads)
    return window_view(heads.flatten(0, 1), options.kernel_size).unflatten(0, heads.shape[:2])


def relative_logits(query_BNDHW: Tensor, rel_row_NKD: Tensor, rel_col_NKD: Tensor) -> Tensor:
    """q_ij . r_{a-i, b-j} of Eq. 3, (B, N, H, W, K, K).

    r is the concatenation of a row embedding and a column embedding, half of the channels each, so the
    product is the sum of two short ones: q[:D/2] . rel_row[a-i] + q[D/2:] . rel_col[b-j].
    """
    query_row, query_col = query_BNDHW.chunk(2, dim=2)
    row_BNHWR = torch.einsum("bndhw,nrd->bnhwr", query_row, rel_row_NKD)
    col_BNHWC = torch.einsum("bndhw,ncd->bnhwc", query_col, rel_col_NKD)
    return row_BNHWR[..., :, None] + col_BNHWC[..., None, :]


def attention_logits(
    query: Tensor, key: Tensor | None, rel_row: Tensor | None, rel_col: Tensor | None, options: LocalOptions
) -> Tensor:
    """scale * (q_ij . k_ab + q_ij . r_{a-i, b-j}), (B, N, H, W, K, K); -inf where padding="mask" hides a key."""
    kernel_size, num_heads, padding, scale = options
    query_BNDHW = split_heads(query, num_heads)
    logits = query_BNDHW.new_zeros(())
    if key is not None:
        key_BNDHWRC = head_windows(key, options)
        logits = logits + torch.einsum("bndhw,bndhwrc->bnhwrc", query_BNDHW, key_BNDHWRC)
    if rel_row is not None and rel_col is not None:
        logits = logits + relative_logits(query_BNDHW, rel_row, rel_col)
    logits = logits * scale
    if padding == "mask":
        inside = window_view(torch.ones_like(query[:1, :1]), kernel_size) > 0
        logits = logits.masked_fill(~inside, float("-inf"))
    return logits


def attention_weights(
    query: Tensor, key: Tensor | None, rel_row: Tensor | None, rel_col: Tensor | None, options: LocalOptions
) -> Tensor:
    """softmax_ab of Eq. 3, (B, N, K, K, H, W): the weight of offset (a - i, b - j) in the output of pixel (i, j)."""
    dtype = compute_dtype(query)
    key, rel_row, rel_col = (None if t is None else t.to(dtype) for t in (key, rel_row, rel_col))
    with without_autocast(query.device):
        logits = attention_logits(query.to(dtype), key, rel_row, rel_col, options)
    return logits.flatten(-2).softmax(-1).unflatten(-1, logits.shape[-2:]).permute(0, 1, 4, 5, 2, 3)


def local_attention(inputs: LocalInputs, options: LocalOptions) -> tuple[Tensor, Tensor]:
    """y_ij = sum over ab of softmax_ab(logit) v_ab, Eq. 3, and the log-sum-exp of the logits.

    Returns:
        output (B, N * E, H, W) in query's dtype; logsumexp (B, N, H, W) in float32 or better.
    """
    dtype, device = inputs.query.dtype, inputs.query.device
    query, key, value, rel_row, rel_col = (None if t is None else t.to(compute_dtype(inputs.query)) for t in inputs)
    assert query is not None
    assert value is not None
    with without_autocast(device):
        logits = attention_logits(query, key, rel_row, rel_col, options)
        logsumexp_BNHW = logits.flatten(-2).logsumexp(-1)
        weights_BNHWRC = (logits - logsumexp_BNHW[..., None, None]).exp()
        value_BNEHWRC = head_windows(value, options)
        output_BNEHW = torch.einsum("bnhwrc,bnehwrc->bnehw", weights_BNHWRC, value_BNEHWRC)
    return output_BNEHW.flatten(1, 2).to(dtype), logsumexp_BNHW


def to_blocks(map_BCHW: Tensor, block_size: int) -> Tensor:
    """(B, C, H, W) -> (B, I, J, P, C): the pixels of every block, row by row; zeros beyond the map."""
    height, width = map_BCHW.shape[-2:]
    padded = F.pad(map_BCHW, (0, -width % block_size, 0, -height % block_size))
    rows, columns = (side // block_size for side in padded.shape[-2:])
    blocks = padded.unflatten(3, (columns, block_size)).unflatten(2, (rows, block_size))
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)


def from_blocks(blocks_BIJPC: Tensor, height: int, width: int, block_size: int) -> Tensor:
    """The inverse of `to_blocks`: (B, I, J, P, C) -> (B, C, H, W) without the pixels beyond the map."""
    pixels = blocks_BIJPC.unflatten(3, (block_size, block_size))
    return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def block_offsets(block_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices (P, P) into rel_row and rel_col for query pixel p and key pixel s; 0 is offset -(block_size - 1)."""
    position = torch.arange(block_size, device=device)
    offset = position[None, :] - position[:, None] + block_size - 1
    rows = offset.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)
    return rows, offset.repeat(block_size, block_size)


def block_attention(inputs: BlockInputs, options: BlockOptions) -> tuple[Tensor, Tensor]:
    """The stem's attention (Section 3.2, Eq. 7-8): Eq. 3 inside each block, values mixed by position.

    Returns:
        output (B, N * E, H, W) in image's dtype; logsumexp (B, N, H, W) in float32 or better.
    """
    image, w_query, w_key, w_value, rel_row, rel_col, value = inputs
    block_size, num_heads, scale = options
    dtype = compute_dtype(image)
    height, width = image.shape[-2:]
    with without_autocast(image.device):
        pixels_BIJPC = to_blocks(image.to(dtype), block_size)
        query = (pixels_BIJPC @ w_query.to(dtype).T).unflatten(-1, (num_heads, -1))
        logits_BIJNPS = query.new_zeros(())
        if w_key is not None:
            key = (pixels_BIJPC @ w_key.to(dtype).T).unflatten(-1, (num_heads, -1))
            logits_BIJNPS = logits_BIJNPS + torch.einsum("bijpnd,bijsnd->bijnps", query, key)
        if rel_row is not None and rel_col is not None:
            rows, cols = block_offsets(block_size, image.device)
            r_NPSD = torch.cat([rel_row.to(dtype)[:, rows], rel_col.to(dtype)[:, cols]], dim=-1)
            logits_BIJNPS = logits_BIJNPS + torch.einsum("bijpnd,npsd->bijnps", query, r_NPSD)
        # Pixels beyond the image are masked as keys; also as queries and values, so that no NaN spreads.
        inside_BIJP = to_blocks(torch.ones_like(image[:1, :1]), block_size)[..., 0] > 0
        logits_BIJNPS = (logits_BIJNPS * scale).masked_fill(~inside_BIJP[:, :, :, None, :, None], 0.0)
        logits_BIJNPS = logits_BIJNPS.masked_fill(~inside_BIJP[:, :, :, None, None, :], float("-inf"))
        if value is None:
            assert w_value is not None
            value_BIJSE = torch.einsum("bijsc,sec->bijse", pixels_BIJPC, w_value.to(dtype))
        else:
            value_BIJSE = to_blocks(value.to(dtype), block_size)
        value_BIJSE = value_BIJSE.masked_fill(~inside_BIJP[..., None], 0.0)
        logsumexp_BIJNP = logits_BIJNPS.logsumexp(-1)
        weights = (logits_BIJNPS - logsumexp_BIJNP[..., None]).exp()
        output = torch.einsum("bijnps,bijsne->bijpne", weights, value_BIJSE.unflatten(-1, (num_heads, -1)))
    output_BCHW = from_blocks(output.flatten(-2), height, width, block_size)
    logsumexp_BNHW = from_blocks(logsumexp_BIJNP.transpose(-1, -2), height, width, block_size)
    return output_BCHW.to(image.dtype), logsumexp_BNHW
