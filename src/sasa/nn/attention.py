"""`LocalAttention2d`: the layer that stands where a spatial convolution stood.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D channels of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sasa.errors import ArgumentError
from sasa.nn.position import add_sinusoid, check_position, relative_embedding
from sasa.ops import reference
from sasa.ops.backends import check_backend
from sasa.ops.checks import check_heads, check_kernel_size, check_padding
from sasa.ops.fusion import may_fuse
from sasa.ops.qkv_attention import qkv_attention, qkv_attention_inference, split

fx.wrap("qkv_attention")
fx.wrap("add_sinusoid")

PROJECTED_BYTES = 2**24  # of q, k and v at once, in inference


class LocalAttention2d(nn.Module):
    """Local self-attention in place of `nn.Conv2d`, Eq. 3 of the paper::

        y_ij = sum over ab in N_K(i, j) of softmax_ab(q_ij . k_ab + q_ij . r_{a-i, b-j}) v_ab

    with q = W_Q x, k = W_K x, v = W_V x. The map keeps its size; `stride` pools the result, as the paper does
    where the convolution had one (Section 4.1).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; divisible by `num_heads`, and by `2 * num_heads` with relative
            positions.
        kernel_size: K, the side of the window, odd; an int or a pair of equal ints.
        stride: side of the average pool after the attention; partial windows at the border count what they hold.
        padding: "zeros": positions outside the map have zero keys and values and take part in the softmax.
            "mask": they take no part.
        num_heads: N; heads are contiguous groups of channels.
        bias: biases on W_Q, W_K and W_V. The paper has none.
        position: "relative" (the paper's choice), "absolute" (a 2-D sinusoid added to the input) or "none".
        content: False leaves q.k out, and with it W_K (Table 6).
        scale: factor of the logits. The paper has no 1 / sqrt(D).
        backend: "auto", or the name of a back-end for tests and comparison.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)), any H, W >= 1; also
        without B.

    Raises:
        ArgumentError: (a ValueError) at construction, where arguments do not fit, with both values.

    >>> layer = sasa.LocalAttention2d(64, 128, kernel_size=7, stride=2)
    >>> layer(torch.randn(2, 64, 15, 20)).shape
    torch.Size([2, 128, 8, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 7,
        stride: int | tuple[int, int] = 1,
        padding: str = "zeros",
        num_heads: int = 8,
        bias: bool = False,
        *,
        position: str = "relative",
        content: bool = True,
        scale: float = 1.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = _one_side(kernel_size, "kernel_size")
        self.stride = _one_side(stride, "stride")
        check_kernel_size(self.kernel_size)
        check_padding(padding)
        check_position(position, content)
        check_heads(out_channels, num_heads, "out_channels", relative=position == "relative")
        check_backend(backend)
        if min(in_channels, out_channels, self.stride) < 1:
            raise ArgumentError(
                f"in_channels ({in_channels}), out_channels ({out_channels}) and stride ({self.stride}) "
                "must be at least 1"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.padding = padding
        self.num_heads = num_heads
        self.position = position
        self.content = content
        self.scale = scale
        self.backend = backend

        factory = {"device": device, "dtype": dtype}
        # One projection for q, k and v (q and v without content): its output is read once, and split as views.
        projections = 3 if content else 2
        self.qkv = nn.Conv2d(in_channels, projections * out_channels, 1, bias=bias, **factory)  # pyright: ignore
        self.rel_row: nn.Parameter | None = None
        self.rel_col: nn.Parameter | None = None
        if position == "relative":
            head_dim = out_channels // num_heads
            self.rel_row = relative_embedding(num_heads, self.kernel_size, head_dim, **factory)
            self.rel_col = relative_embedding(num_heads, self.kernel_size, head_dim, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W_V keeps the variance of its input; W_Q, W_K and r start with logits of order one for any head width.

        docs/choices.md says what was tried.
        """
        head_dim = self.out_channels // self.num_heads
        query, *key, value = self.qkv.weight.chunk(3 if self.content else 2)
        with torch.no_grad():
            for weight in (query, *key):
                nn.init.normal_(weight, std=self.in_channels**-0.5 * head_dim**-0.25)
            nn.init.normal_(value, std=self.in_channels**-0.5)
            if self.qkv.bias is not None:
                nn.init.zeros_(self.qkv.bias)
            for rel in (self.rel_row, self.rel_col):
                if rel is not None:
                    nn.init.normal_(rel, std=head_dim**-0.25)

    def project(self, x: Tensor) -> Tensor:
        """q, k (left out without content) and v of Eq. 3, one after the other: (B, 3 or 2 * out_channels, H, W)."""
        if isinstance(x, Tensor) and (x.dim() != 4 or x.shape[1] != self.in_channels):
            raise ArgumentError(f"the input must be (batch, {self.in_channels}, height, width), got {tuple(x.shape)}")
        if self.position == "absolute":
            x = add_sinusoid(x)
        return self.qkv(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)); also without B."""
        if isinstance(x, Tensor) and x.dim() == 3:  # a trace has no shapes to look at, and is taken with a batch
            return self(x[None])[0]
        if self.may_infer(x):
            return self.infer(x)
        y = qkv_attention(
            self.project(x), self.rel_row, self.rel_col, **self.options(), content=self.content, backend=self.backend
        )
        if self.stride == 1:
            return y
        # ceil_mode and true counts: an odd side gives the size that a strided shortcut gives.
        return F.avg_pool2d(y, self.stride, ceil_mode=True, count_include_pad=False)

    def options(self) -> dict[str, Any]:
        """The operator's options that the layer decides."""
        return {
            "kernel_size": self.kernel_size,
            "num_heads": self.num_heads,
            "padding": self.padding,
            "scale": self.scale,
        }

    def may_infer(self, x: Tensor) -> bool:
        """Whether `infer` computes the same, by the kernel that fuses pooling and scaling."""
        return (
            self.backend == "auto"
            and self.stride <= 2
            and type(self.qkv) is nn.Conv2d  # another module may have parts of its own that see parts of the batch
            and may_fuse("qkv_attention_inference", x, self.qkv)
        )

    def infer(
        self, x: Tensor, gain: Tensor | None = None, shift: Tensor | None = None, *, relu: bool = False
    ) -> Tensor:
        """`forward`, then y * gain + shift for each channel (a batch norm in evaluation) and ReLU, in one pass.

        Args:
            x: (B, in_channels, H, W).
            gain: (out_channels,), float32, or None for 1.
            shift: the same, or None for 0.
            relu: whether negative results become 0.
        """
        # On the CPU a few images at a time where q, k and v are large: they are read while they are still in a cache,
        # and equal-sized chunks reuse the allocator's memory.
        bytes_each = 3 * self.out_channels * x.shape[2] * x.shape[3] * x.element_size()
        images = max(1, PROJECTED_BYTES // max(1, bytes_each))
        whole = images >= x.shape[0] or torch.compiler.is_compiling() or x.device.type != "cpu"
        parts = [x] if whole else x.split(images)
        results = [
            qkv_attention_inference(
                self.project(part),
                self.rel_row,
                self.rel_col,
                gain,
                shift,
                relu=relu,
                pool=self.stride,
                content=self.content,
                **self.options(),
            )
            for part in parts
        ]
        return results[0] if len(results) == 1 else torch.cat(results)

    @torch.no_grad()
    def attention_weights(self, x: Tensor) -> Tensor:
        """softmax_ab of Eq. 3, (B, N, K, K, H, W) before pooling: what pixel (i, j) takes from each offset.

        Entry [b, n, u, v, i, j] belongs to the position (i + u - K // 2, j + v - K // 2). They sum to one over
        u and v. For images: the memory is K * K * N floats a pixel.
        """
        query, key, _ = split(self.project(x), self.content)
        return reference.attention_weights(query, key, self.rel_row, self.rel_col, **self.options())

    def extra_repr(self) -> str:
        """The arguments that differ from the paper's, after those that always matter."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, num_heads={self.num_heads}"
        defaults = {"stride": 1, "padding": "zeros", "position": "relative", "content": True, "scale": 1.0}
        return text + "".join(
            f", {name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value
        )


def _one_side(value: int | tuple[int, int], name: str) -> int:
    if isinstance(value, tuple | list):
        if len(value) != 2 or value[0] != value[1]:
            raise ArgumentError(f"{name} must be one number or two equal ones, got {tuple(value)}")
        return value[0]
    return value
