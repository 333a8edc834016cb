"""`AttentionStem`: the first layer of a network without a spatial convolution (Section 3.2 and Appendix A.1).

Shapes: B batch, C channels, H x W the image, S the block size, P = S * S positions of a block, M mixtures.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sasa.errors import ArgumentError
from sasa.nn.batch_norm import gain_and_shift, statistics_of_sums, uses_batch_statistics
from sasa.nn.position import NoPosition, find_position
from sasa.ops import block_attention
from sasa.ops.arguments import BlockInputs, BlockOptions
from sasa.ops.backends import check_backend
from sasa.ops.block_pooled import block_attention_pooled
from sasa.ops.checks import check_heads, check_scale
from sasa.ops.fusion import may_fuse

fx.wrap("block_attention")

VALUES = ("mixture", "pointwise", "convolution")


class AttentionStem(nn.Module):
    """Attention inside each block of pixels with position-dependent values, batch norm, then max pool::

        y_p   = sum over s of softmax_s(q_p . k_s + q_p . r_{s-p}) v~_s                      Eq. 7, with Eq. 3's r
        v~_s  = (sum over m of p(s, m) W_V^m) x_s                                            Eq. 8
        p(s, m) = softmax_m((emb_row(a) + emb_col(b)) . nu^m),  s = (a, b)                   Eq. 9

    p depends only on the position in the block, so the M matrices are mixed once rather than for every pixel.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the result; divisible by `num_heads` (by `2 * num_heads` with relative positions).
        block_size: S, the side of the attention's block and of the max pool's window.
        num_heads: number of heads; they share the mixture.
        values: "mixture" (the paper's stem), "pointwise" (one matrix everywhere) or "convolution" (S x S), Table 7.
        num_mixtures: M.
        position: "relative", "absolute" (a 2-D sinusoid added to the image) or "none".
        content: False leaves q.k out, and with it W_K.
        scale: factor of the logits.
        norm: batch norm between attention and pool.
        activation: ReLU after batch norm. Max pool and ReLU commute.
        pool: max pool over each block; False keeps the full resolution.
        backend: "auto", or the name of a back-end for tests and comparison.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H / S), ceil(W / S)), or H, W without pool; any H, W >= 1.

    >>> stem = sasa.AttentionStem(3, 64)
    >>> stem(torch.randn(1, 3, 30, 32)).shape
    torch.Size([1, 64, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 64,
        *,
        block_size: int = 4,
        num_heads: int = 4,
        values: str = "mixture",
        num_mixtures: int = 5,
        position: str = "relative",
        content: bool = True,
        scale: float = 1.0,
        norm: bool = True,
        activation: bool = True,
        pool: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if values not in VALUES:
            raise ArgumentError(f"values must be one of {', '.join(VALUES)}; got {values!r}")
        if min(in_channels, out_channels, block_size, num_mixtures) < 1:
            raise ArgumentError(
                f"in_channels ({in_channels}), out_channels ({out_channels}), block_size ({block_size}) and "
                f"num_mixtures ({num_mixtures}) must be at least 1"
            )
        encoding = find_position(position, content)
        check_heads(out_channels, num_heads, "out_channels", relative=encoding.halves_heads)
        check_scale(scale)
        check_backend(backend)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.block_size = block_size
        self.num_heads = num_heads
        self.values = values
        self.num_mixtures = num_mixtures if values == "mixture" else 1
        self.position = position
        self.content = content
        self.scale = scale
        self.activation = activation
        self.pool = pool
        self.backend = backend
        factory = {"device": device, "dtype": dtype}
        self._make_parameters(factory)
        self.norm = nn.BatchNorm2d(out_channels, **factory) if norm else nn.Identity()  # pyright: ignore
        self.reset_parameters()

    def _make_parameters(self, factory: dict) -> None:
        out, into, head_dim = self.out_channels, self.in_channels, self.out_channels // self.num_heads
        self.w_query = nn.Parameter(torch.empty(out, into, **factory))
        self.w_key = nn.Parameter(torch.empty(out, into, **factory)) if self.content else None
        self.rel_row: nn.Parameter | None
        self.rel_col: nn.Parameter | None
        self.encoding.add_tables(self, 2 * self.block_size - 1, **factory)
        self.w_value: nn.Parameter | None = None
        self.value_conv: nn.Conv2d | None = None
        self.emb_row: nn.Parameter | None = None
        self.emb_col: nn.Parameter | None = None
        self.nu: nn.Parameter | None = None
        if self.values == "convolution":
            self.value_conv = nn.Conv2d(into, out, self.block_size, bias=False, **factory)
            return
        self.w_value = nn.Parameter(torch.empty(self.num_mixtures, out, into, **factory))
        if self.values == "mixture":
            self.emb_row = nn.Parameter(torch.empty(self.block_size, head_dim, **factory))
            self.emb_col = nn.Parameter(torch.empty(self.block_size, head_dim, **factory))
            self.nu = nn.Parameter(torch.empty(self.num_mixtures, head_dim, **factory))

    @property
    def encoding(self) -> NoPosition:
        """The stem's position encoding."""
        return find_position(self.position, self.content)

    @property
    def options(self) -> BlockOptions:
        """The operator's options."""
        return BlockOptions(self.block_size, self.num_heads, float(self.scale))

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """Names of the parameters that are embeddings, which weight decay should spare."""
        return (*self.encoding.tables, *(("emb_row", "emb_col", "nu") if self.values == "mixture" else ()))

    def reset_parameters(self) -> None:
        """Initialise for logits of order one and mixtures that differ between positions; see docs/choices.md."""
        head_dim = self.out_channels // self.num_heads
        for weight in (self.w_query, self.w_key):
            if weight is not None:
                nn.init.normal_(weight, std=self.in_channels**-0.5 * head_dim**-0.25)
        self.encoding.reset_tables(self)
        if self.value_conv is not None:
            nn.init.kaiming_normal_(self.value_conv.weight)
            return
        assert self.w_value is not None
        nn.init.normal_(self.w_value, std=self.in_channels**-0.5)
        if self.emb_row is not None and self.emb_col is not None and self.nu is not None:
            nn.init.normal_(self.emb_row)
            nn.init.normal_(self.emb_col)
            nn.init.normal_(self.nu, std=head_dim**-0.5)

    def mixture(self) -> Tensor:
        """p(a, b, m) of Eq. 9, (P, M): the weight of each value matrix at each position; the sum over m is 1."""
        if self.emb_row is None or self.emb_col is None or self.nu is None:
            return self.w_query.new_ones(self.block_size**2, 1)  # one value matrix, or the convolution
        position_PD = (self.emb_row[:, None] + self.emb_col[None, :]).flatten(0, 1)
        return (position_PD @ self.nu.T).softmax(-1)

    def mixed_values(self) -> Tensor | None:
        """sum over m of p(a, b, m) W_V^m of Eq. 8, (P, out_channels, in_channels); None with a convolution."""
        if self.w_value is None:
            return None
        return torch.einsum("pm,moc->poc", self.mixture(), self.w_value)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / S), ceil(W / S)), or at full size without pool."""
        if isinstance(image, Tensor) and (image.dim() != 4 or image.shape[1] != self.in_channels):
            raise ArgumentError(
                f"the image must be (batch, {self.in_channels}, height, width), got {tuple(image.shape)}"
            )
        image = self.encoding.encode(image)
        if self._may_pool_first(image):
            y = self._attend_and_pool(image)
            return F.relu(y, inplace=True) if self.activation else y
        inputs = self._inputs(image)
        y = block_attention(
            *inputs[:6], value=inputs.value, **self.options._asdict(), content=self.content, backend=self.backend
        )
        y = self.norm(y)
        if self.pool:
            y = F.max_pool2d(y, self.block_size, ceil_mode=True)
        return F.relu(y) if self.activation else y

    def _may_pool_first(self, image: Tensor) -> bool:
        """Return whether the fused operator, which does not write the map at full resolution, may be used."""
        return (
            self.backend == "auto"
            and self.pool
            and self.block_size <= 16
            and type(self.norm) is nn.BatchNorm2d
            and may_fuse("block_attention_pooled", image, self.norm)
            and image.numel() > 0
            and image.dtype == self.w_query.dtype  # `block_attention` says what is wrong
        )

    def _attend_and_pool(self, image: Tensor) -> Tensor:
        norm = self.norm
        assert isinstance(norm, nn.BatchNorm2d)
        sign = self.w_query.new_ones(self.out_channels) if norm.weight is None else norm.weight.detach()
        extreme, sums = block_attention_pooled(self._inputs(image), sign, self.options)
        if uses_batch_statistics(norm):
            mean, variance = statistics_of_sums(norm, sums, image.shape[0] * image.shape[2] * image.shape[3])
        else:
            mean, variance = norm.running_mean, norm.running_var
        gain, shift = gain_and_shift(norm, mean, variance)  # pyright: ignore[reportArgumentType]
        gain, shift = (t.to(torch.promote_types(extreme.dtype, torch.float32)) for t in (gain, shift))
        return (extreme * gain[:, None, None] + shift[:, None, None]).to(extreme.dtype)

    def _inputs(self, image: Tensor) -> BlockInputs:
        """The operator's tensors for an image with its positions added."""
        if self.content == (self.w_key is None):
            given = "None" if self.w_key is None else "given"
            raise ArgumentError(
                f"content is {self.content}, but w_key is {given}: construct a stem with this option instead"
            )
        rel_row, rel_col = self.encoding.embeddings(self)
        value = self._value_map(image)
        return BlockInputs(image, self.w_query, self.w_key, self.mixed_values(), rel_row, rel_col, value)

    def _value_map(self, image: Tensor) -> Tensor | None:
        if self.value_conv is None:
            return None
        before = (self.block_size - 1) // 2
        after = self.block_size - 1 - before  # an even kernel pads one pixel more on one side
        return self.value_conv(F.pad(image, (before, after, before, after)))

    def extra_repr(self) -> str:
        """Channels, block, heads and values."""
        return (
            f"{self.in_channels}, {self.out_channels}, block_size={self.block_size}, num_heads={self.num_heads}, "
            f"values={self.values!r}, num_mixtures={self.num_mixtures}, pool={self.pool}"
        )
