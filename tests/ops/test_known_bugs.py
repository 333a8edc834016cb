"""Known mistakes of open re-implementations, each made on purpose: the suite must detect them.

A correct attention is composed of parts; each mistake replaces exactly one part.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import sasa
from helpers import HERE, WITHOUT_KERNELS, assert_is_equation_3, backend_params, local_inputs, skip_unless_it_runs
from sasa.ops import local_attention

# N heads, D channels of a head, K * K window positions P, on maps (B, N, D, H, W) and windows (B, N, D, P, H, W).


def windows(x_BNDHW, kernel_size):
    """Each pixel's window, zeros outside the map."""
    batch, heads, _, height, width = x_BNDHW.shape
    unfolded = F.unfold(x_BNDHW.flatten(0, 1), kernel_size, padding=kernel_size // 2)
    return unfolded.reshape(batch, heads, -1, kernel_size**2, height, width)


def r_of_window(row_NKD, col_NKD):
    """r for every window position, (N, D, P): a row half and a column half in every head."""
    kernel_size = row_NKD.shape[1]
    row = row_NKD.mT.repeat_interleave(kernel_size, dim=2)
    return torch.cat([row, col_NKD.mT.repeat(1, 1, kernel_size)], dim=1)


def content_logits(q, k):
    """q.k within a head."""
    return (q[:, :, :, None] * k).sum(2)


def relative_logits(q, r):
    """q.r within a head."""
    return torch.einsum("bndhw,ndp->bnphw", q, r)


def hidden(inside):
    """Logits with padding="mask": -inf outside the map."""
    return ~inside


def average(logits, v):
    """Softmax over the window, then the average of the values."""
    return torch.einsum("bnphw,bndphw->bndhw", logits.softmax(2), v)


def attention(
    *, content_logits=content_logits, relative_logits=relative_logits, r=r_of_window, hidden=hidden, average=average
):
    """Eq. 3 from its parts."""

    def function(query, key, value, rel_row, rel_col, *, kernel_size, num_heads, padding, scale, content):
        q, v = (t.unflatten(1, (num_heads, -1)) for t in (query, value))
        logits = torch.zeros((), dtype=q.dtype)
        if content:
            logits = logits + content_logits(q, windows(key.unflatten(1, (num_heads, -1)), kernel_size))
        if rel_row is not None:
            logits = logits + relative_logits(q, r(rel_row, rel_col))
        logits = scale * logits
        if padding == "mask":
            inside = windows(torch.ones_like(q[:1, :1, :1]), kernel_size)[:, :, 0] > 0
            logits = logits.masked_fill(hidden(inside), -torch.inf)
        return average(logits, windows(v, kernel_size)).flatten(1, 2)

    return function


def softmax_per_channel(query, key, value, rel_row, rel_col, *, num_heads, **options):
    """(1) The logit is not summed over channels: every channel is its own head, with its own softmax."""
    channels = query.shape[1]

    def products(q, k):
        return q[:, :, :, None] * k

    def relative(q, r):
        return q[:, :, :, None] * r[None, :, :, :, None, None]

    def per_channel(logits, v):
        return (logits.softmax(3) * v).sum(3)

    def all_hidden(inside):
        return ~inside[:, :, None]

    assert value.shape[1] == channels
    wrong = attention(content_logits=products, relative_logits=relative, average=per_channel, hidden=all_hidden)
    return wrong(query, key, value, rel_row, rel_col, num_heads=num_heads, **options)


def r_split_across_heads(row_NKD, col_NKD):
    """(2) The first half of all channels, that is of the heads, sees rows only, the other half columns only."""
    heads, kernel_size, half = row_NKD.shape
    row = row_NKD.mT.repeat_interleave(kernel_size, dim=2).reshape(heads * half, -1)
    col = col_NKD.mT.repeat(1, 1, kernel_size).reshape(heads * half, -1)
    return torch.cat([row, col]).reshape(heads, 2 * half, -1)


def product_of_sums(q, r):
    """(4) sum(q) * sum(r) in place of q.r."""
    return q.sum(2)[:, :, None] * r.sum(1)[None, :, :, None, None]


def content_over_all_heads(q, k):
    """(5) q.k summed over the channels of all heads."""
    return content_logits(q, k).sum(1, keepdim=True)


MISTAKES = {
    "softmax per channel": softmax_per_channel,
    "rows and columns split across heads": attention(r=r_split_across_heads),
    "sum(q) * sum(r)": attention(relative_logits=product_of_sums),
    "q.k over all heads": attention(content_logits=content_over_all_heads),
    "inverted mask": attention(hidden=lambda inside: inside),
}

# Other mistakes that are easy to make.
OTHER_MISTAKES = {
    "rows and columns exchanged": attention(r=lambda row, col: r_of_window(col, row)),
    "offsets backwards": attention(r=lambda row, col: r_of_window(row.flip(1), col.flip(1))),
    "columns before rows": attention(r=lambda row, col: r_of_window(row, col).roll(row.shape[2], 1)),
    "one embedding for all heads": attention(r=lambda row, col: r_of_window(*(x[:1].expand_as(x) for x in (row, col)))),
    "1 / sqrt(d)": attention(content_logits=lambda q, k: content_logits(q, k) / q.shape[2] ** 0.5),
    "no mask": attention(hidden=lambda inside: torch.zeros_like(inside)),
    "heads interleaved": lambda q, *rest, num_heads, **options: attention()(
        q.unflatten(1, (-1, num_heads)).transpose(1, 2).flatten(1, 2), *rest, num_heads=num_heads, **options
    ),
}


@WITHOUT_KERNELS
def test_the_right_parts_are_equation_3():
    """So each mistake is due to the one part that it replaces."""
    assert_is_equation_3(attention())


@pytest.mark.parametrize("backend", backend_params(*HERE, "auto"))
def test_every_backend_is_equation_3(backend):
    def function(query, *rest, **options):
        skip_unless_it_runs(backend, query)
        return local_attention(query, *rest, **options, backend=backend)

    assert_is_equation_3(function)


@WITHOUT_KERNELS
@pytest.mark.parametrize("mistake", [*MISTAKES, *OTHER_MISTAKES])
def test_every_mistake_is_seen(mistake):
    with pytest.raises(AssertionError, match="differs by"):
        assert_is_equation_3({**MISTAKES, **OTHER_MISTAKES}[mistake])


# (3) Stride 2 crashes, and unfolded windows fill the memory.


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (2, 3), (7, 8), (13, 11)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_strides_run_and_give_the_size_of_a_strided_convolution(stride, size):
    x = torch.randn(2, 8, *size, requires_grad=True)
    y = sasa.LocalAttention2d(8, 16, kernel_size=3, stride=stride, num_heads=4)(x)
    assert y.shape == torch.nn.Conv2d(8, 16, 3, stride, padding=1)(x).shape
    y.sum().backward()
    assert x.grad.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Records the size in bytes of the largest allocation of any result; a view counts as its base."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def largest_tensor(backend: str, shape: tuple[int, ...]) -> int:
    tensors = [t.requires_grad_() for t in local_inputs(*shape, dtype=torch.float32)]
    with LargestTensor() as largest:
        options = {"kernel_size": shape[-1], "num_heads": shape[1], "backend": backend}
        local_attention(*tensors, **options).square().mean().backward()
    return largest.bytes


@WITHOUT_KERNELS
def test_the_eager_path_never_holds_all_windows():
    batch, heads, head_dim, _, height, width, kernel_size = shape = (2, 4, 16, 16, 48, 48, 7)
    all_windows = 4 * batch * heads * head_dim * height * width * kernel_size**2
    assert largest_tensor("reference", shape) >= all_windows, "what this test measures"
    assert largest_tensor("eager", shape) < all_windows / 8


@WITHOUT_KERNELS
def test_the_memory_of_the_eager_path_does_not_grow_with_the_map():
    """Beyond the maps themselves: a strip is as large for a map of four times the pixels."""
    small, large = (largest_tensor("eager", (1, 4, 8, 8, side, side, 7)) for side in (48, 96))
    assert large <= max(1.1 * small, 4 * 32 * 102 * 102)
