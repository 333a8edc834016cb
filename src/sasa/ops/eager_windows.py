"""Local attention in plain torch, window by window: used by `eager` for maps that hold NaN or infinity.

`eager` multiplies whole tiles of queries and keys and then masks the keys outside each window, which does not remove a
NaN (or an infinity: 0 * inf is NaN). Here each key is multiplied only with the queries whose window holds it. This
copies each window, one image at a time.

Shapes: B images, N heads, D query and key channels of a head, E value channels of a head, H x W the map, R x C the
window, K a side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import reference
from sasa.ops.arguments import LocalBackward, LocalForward, LocalInputs, LocalOptions
from sasa.ops.precision import compute_dtype, empty_map, without_autocast
from sasa.ops.reference import head_windows, split_heads, window_view


def are_needed(*tensors: Tensor | None) -> bool:
    """Return whether one of the tensors holds NaN or infinity; always False on a GPU, where a check would synchronise.

    On a GPU `eager` therefore lets non-finite numbers spread to all queries of their tile.
    """
    return any(t is not None and t.device.type == "cpu" and not bool(t.isfinite().all()) for t in tensors)


def forward(call: LocalForward) -> tuple[Tensor, Tensor]:
    """Eq. 3: output (B, N * E, H, W) and log-sum-exp of the logits (B, N, H, W)."""
    inputs, options = call
    images = [reference.local_attention(_image(inputs, b), options) for b in range(len(inputs.query))]
    output = empty_map(inputs.query, inputs.value.shape[1]).copy_(torch.cat([output for output, _ in images]))
    return output, torch.cat([logsumexp for _, logsumexp in images])


def backward(call: LocalBackward) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Gradients for query, key, value, rel_row, rel_col (None where the input was None)."""
    inputs, dtype = call.inputs, compute_dtype(call.inputs.query)
    with without_autocast(inputs.query.device):
        images = [
            _gradients(
                LocalInputs(*(None if t is None else t.to(dtype) for t in _image(inputs, b))),  # pyright: ignore
                call.grad_output[b : b + 1].to(dtype),
                call.logsumexp[b : b + 1],
                call.options,
            )
            for b in range(len(inputs.query))
        ]
    results: list[Tensor | None] = []
    for like, grads in zip(inputs, zip(*images, strict=True), strict=True):
        if like is None:
            results.append(None)
        elif like.dim() == 4:
            results.append(empty_map(like, like.shape[1]).copy_(torch.cat(grads)))
        else:
            results.append(torch.cat(grads).sum(0).to(like.dtype))
    return tuple(results)  # pyright: ignore[reportReturnType]


def _image(inputs: LocalInputs, b: int) -> LocalInputs:
    query, key, value, *rels = inputs
    return LocalInputs(query[b : b + 1], None if key is None else key[b : b + 1], value[b : b + 1], *rels)


def _gradients(
    inputs: LocalInputs, grad_output: Tensor, logsumexp: Tensor, options: LocalOptions
) -> tuple[Tensor | None, ...]:
    """Gradients of one image's inputs; those of the embeddings are (1, N, K, D / 2)."""
    query, key, value, rel_row, rel_col = inputs
    query_BNDHW, grad_BNEHW = (split_heads(t, options.num_heads) for t in (query, grad_output))
    logits = reference.attention_logits(query, key, rel_row, rel_col, options)
    weights_BNHWRC = (logits - logsumexp[..., None, None]).exp()
    grad_weights = torch.einsum("bnehw,bnehwrc->bnhwrc", grad_BNEHW, head_windows(value, options))
    grad_logits = grad_weights * weights_BNHWRC
    grad_logits = grad_logits - weights_BNHWRC * grad_logits.sum((-2, -1), keepdim=True)
    if options.padding == "mask":
        inside = window_view(torch.ones_like(query[:, :1]), options.kernel_size) > 0
        grad_logits = grad_logits.masked_fill(~inside, 0.0)
    grad_logits = grad_logits * options.scale

    grad_query = torch.zeros_like(query_BNDHW)
    grad_key = grad_row = grad_col = None
    if key is not None:
        grad_query = grad_query + torch.einsum("bnhwrc,bndhwrc->bndhw", grad_logits, head_windows(key, options))
        grad_key = _sum_over_queries(grad_logits, query_BNDHW)
    if rel_row is not None and rel_col is not None:
        rows, columns = grad_logits.sum(-1), grad_logits.sum(-2)
        of_rows = torch.einsum("bnhwr,nrd->bndhw", rows, rel_row)
        of_columns = torch.einsum("bnhwc,ncd->bndhw", columns, rel_col)
        grad_query = grad_query + torch.cat([of_rows, of_columns], 2)
        query_row, query_col = query_BNDHW.chunk(2, dim=2)
        grad_row = torch.einsum("bnhwr,bndhw->bnrd", rows, query_row)
        grad_col = torch.einsum("bnhwc,bndhw->bncd", columns, query_col)
    return grad_query.flatten(1, 2), grad_key, _sum_over_queries(weights_BNHWRC, grad_BNEHW), grad_row, grad_col


def _sum_over_queries(weights_BNHWRC: Tensor, sources_BNDHW: Tensor) -> Tensor:
    """For each key, the sum of weight * source over the queries whose window holds it: (B, N * D, H, W)."""
    height, width, window = *sources_BNDHW.shape[-2:], weights_BNHWRC.shape[-1]
    half = window // 2
    total = F.pad(torch.zeros_like(sources_BNDHW), (half, half, half, half))
    for row in range(window):
        for column in range(window):
            part = weights_BNHWRC[:, :, None, :, :, row, column] * sources_BNDHW
            total[..., row : row + height, column : column + width] += part
    return total[..., half : half + height, half : half + width].flatten(1, 2)
