"""`LocalAttention2d`: the layer that replaces a spatial convolution.

Shapes: B batch, C channels, H x W the map, N heads, K the kernel size, D channels of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sasa.errors import ArgumentError
from sasa.nn.pointwise import convolve
from sasa.nn.position import NoPosition, find_position
from sasa.ops import reference
from sasa.ops.arguments import Epilogue, QkvForward, QkvInputs, QkvOptions
from sasa.ops.backends import check_backend
from sasa.ops.checks import check_heads, check_kernel_size, check_padding, check_positive, check_scale
from sasa.ops.fusion import may_fuse
from sasa.ops.local_attention import check_options
from sasa.ops.qkv_attention import qkv_attention, qkv_attention_inference

fx.wrap("qkv_attention")

PROJECTED_BYTES = 2**24  # of q, k and v together, for one chunk of images in inference


class LocalAttention2d(nn.Module):
    """Local self-attention in place of `nn.Conv2d`, Eq. 3 of the paper::

        y_ij = sum over ab in N_K(i, j) of softmax_ab(q_ij . k_ab + q_ij . r_{a-i, b-j}) v_ab

    with q = W_Q x, k = W_K x, v = W_V x. The map keeps its size; `stride` pools the result, as the paper does
    where the convolution had a stride (Section 4.1).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; divisible by `num_heads`, and by `2 * num_heads` with relative
            positions.
        kernel_size: K, the side of the window, odd; an int or a pair of equal ints.
        stride: side of the average pool after the attention; a partial window at the border averages the pixels in it.
        padding: "zeros": positions outside the map have zero keys and values and take part in the softmax.
            "mask": they are excluded.
        num_heads: N; heads are contiguous groups of channels.
        bias: biases on W_Q, W_K and W_V. The paper has none.
        position: "relative" (the paper's choice), "absolute" (a 2-D sinusoid added to the input) or "none".
        content: False leaves q.k out, and with it W_K (Table 6).
        scale: factor of the logits. The paper has no 1 / sqrt(D).
        backend: "auto", or the name of a back-end for tests and comparison.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)), any H, W >= 1; also
        without B.

    Raises:
        ArgumentError: (a ValueError) at construction, for inconsistent arguments; the message quotes both values.

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
        encoding = find_position(position, content)
        check_heads(out_channels, num_heads, "out_channels", relative=encoding.halves_heads)
        check_scale(scale)
        check_backend(backend)
        if min(in_channels, out_channels, self.stride) < 1:
            raise ArgumentError(
                f"in_channels ({in_channels}), out_channels ({out_channels}) and stride ({self.stride}) "
                "must be at least 1"
            )
        check_positive(self.stride, "stride")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.padding = padding
        self.num_heads = num_heads
        self.position = position
        self.content = content
        self.scale = scale
        self.backend = backend

        factory = {"device": device, "dtype": dtype}
        # One projection for q, k and v (q and v without content): its output is read once, and split into views.
        projections = 3 if content else 2
        self.qkv = nn.Conv2d(in_channels, projections * out_channels, 1, bias=bias, **factory)  # pyright: ignore
        self.rel_row: nn.Parameter | None
        self.rel_col: nn.Parameter | None
        encoding.add_tables(self, self.kernel_size, **factory)
        self.reset_parameters()

    @property
    def encoding(self) -> NoPosition:
        """The layer's position encoding."""
        return find_position(self.position, self.content)

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """Names of the parameters that are embeddings, which weight decay should spare."""
        return self.encoding.tables

    def reset_parameters(self) -> None:
        """Initialise: W_V keeps the variance of its input; W_Q, W_K and r give logits of order one for any head width.

        docs/choices.md lists the alternatives that were tried.
        """
        head_dim = self.out_channels // self.num_heads
        query, *key, value = self.qkv.weight.chunk(3 if self.content else 2)
        with torch.no_grad():
            for weight in (query, *key):
                nn.init.normal_(weight, std=self.in_channels**-0.5 * head_dim**-0.25)
            nn.init.normal_(value, std=self.in_channels**-0.5)
            if self.qkv.bias is not None:
                nn.init.zeros_(self.qkv.bias)
            self.encoding.reset_tables(self)

    def project(self, x: Tensor) -> Tensor:
        """q, k (not without content) and v of Eq. 3, concatenated: (B, 3 or 2 * out_channels, H, W)."""
        if isinstance(x, Tensor) and (x.dim() != 4 or x.shape[1] != self.in_channels):
            raise ArgumentError(f"the input must be (batch, {self.in_channels}, height, width), got {tuple(x.shape)}")
        return convolve(self.qkv, self.encoding.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)); also without B."""
        if isinstance(x, Tensor) and x.dim() == 3:  # a tracing proxy has no shape and counts as a batch
            return LocalAttention2d.forward(self, x[None])[0]  # not self(...), which would run hooks twice
        check_positive(self.stride, "stride")
        if self.may_infer(x):
            return self.infer(x, Epilogue(None, None, False, self.stride))
        y = qkv_attention(self.inputs(x), self.options, self.backend)
        if self.stride == 1:
            return y
        # With ceil_mode, and without padding in the count, an odd side agrees with a strided shortcut.
        return F.avg_pool2d(y, self.stride, ceil_mode=True, count_include_pad=False)

    def inputs(self, x: Tensor) -> QkvInputs:
        """The operator's tensors for an input (B, in_channels, H, W)."""
        qkv, parts = self.project(x), 3 if self.content else 2
        if isinstance(qkv, Tensor) and qkv.shape[1] != parts * self.out_channels:
            raise ArgumentError(
                f"with content={self.content} the projection must have {parts} * out_channels ({self.out_channels}) "
                f"channels, got {qkv.shape[1]}: construct a layer with these options instead"
            )
        return QkvInputs(qkv, *self.encoding.embeddings(self))

    @property
    def options(self) -> QkvOptions:
        """The operator's options."""
        return QkvOptions(self.kernel_size, self.num_heads, self.content, self.padding, float(self.scale))

    def may_infer(self, x: Tensor) -> bool:
        """Return whether `infer` may replace attention, then pooling, as separate operations."""
        return (
            self.backend == "auto"
            and self.stride <= 2
            and type(self.qkv) is nn.Conv2d  # a module of another type may contain modules with hooks
            and may_fuse("qkv_attention_inference", x, self.qkv)
        )

    def infer(self, x: Tensor, epilogue: Epilogue) -> Tensor:
        """Compute attention of x (B, in_channels, H, W), then the epilogue, with one fused operator.

        Without a norm and ReLU, and with the stride as `pool`, it computes the same as `forward`.
        """
        # On the CPU large maps are processed in chunks of a few images: q, k and v are read while still in a cache, and
        # equal-sized chunks reuse the allocator's memory.
        if torch.compiler.is_compiling() or x.device.type != "cpu":  # first: a graph must not depend on the batch size
            return qkv_attention_inference(self.inputs(x), epilogue, self.options)
        bytes_each = 3 * self.out_channels * math.prod(x.shape[2:]) * x.element_size()
        images = max(1, PROJECTED_BYTES // max(1, bytes_each))
        if images >= x.shape[0]:
            return qkv_attention_inference(self.inputs(x), epilogue, self.options)
        parts = [qkv_attention_inference(self.inputs(part), epilogue, self.options) for part in x.split(images)]
        return torch.cat(parts)

    @torch.no_grad()
    def attention_weights(self, x: Tensor) -> Tensor:
        """softmax_ab of Eq. 3 before pooling, (B, N, K, K, H, W): the weight of each offset for pixel (i, j).

        Entry [b, n, u, v, i, j] is the weight of position (i + u - K // 2, j + v - K // 2); the sum over u and v is 1.
        For drawing: it takes K * K * N floats for each pixel.
        """
        inputs, options = QkvForward(self.inputs(x), self.options).local
        check_options(inputs, options)
        return reference.attention_weights(inputs.query, inputs.key, inputs.rel_row, inputs.rel_col, options)

    def extra_repr(self) -> str:
        """Channels, window and heads, then the arguments that differ from the paper's."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, num_heads={self.num_heads}"
        defaults = {"stride": 1, "padding": "zeros", "position": "relative", "content": True, "scale": 1.0}
        return text + "".join(
            f", {name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value
        )


def _one_side(value: int | tuple[int, int], name: str) -> int:
    if isinstance(value, tuple | list):
        if len(value) != 2 or value[0] != value[1]:
            raise ArgumentError(f"{name} must be one number or two equal numbers, got {tuple(value)}")
        return value[0]
    return value
