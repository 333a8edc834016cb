"""`FittedAttention2d`: attention with the output size of any convolution.

A convolution of kernel k and stride s that pads p pixels (both sides together) turns a side of H pixels into
ceil((H - m) / s), where m = k - 1 - p is the number of pixels it *trims*: 0 with "same" padding, positive where the
border is lost, negative where more is padded than the kernel needs. The layer is defined by (m, s).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sasa.errors import ArgumentError
from sasa.nn.attention import LocalAttention2d


class FittedAttention2d(nn.Module):
    """`LocalAttention2d` with the output size of a convolution that is not "same"-padded, or has unequal strides.

    Attention keeps the size of its map. The pixels that such a convolution trims are cropped from the attention's
    output, equally on both sides; the pixels that it adds are zero-padded before the attention. An average pool
    follows, whose windows are whole wherever the size allows: the patches of a 2 x 2 convolution of stride 2 are
    2 x 2 windows.

    Args:
        attention: a layer of stride 1.
        kernel_size: the convolution's. Some networks (DaViT) read it, and `stride`, to pad their input.
        stride: s of rows and of columns.
        trim: m of rows and of columns: pixels by which the convolution shortens a side at stride 1.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil((H - m) / s), ceil((W - m) / s)), H and W > m; also
        without B.

    Raises:
        ArgumentError: (a ValueError) a map too small for the convolution that this layer replaced.
    """

    def __init__(
        self, attention: LocalAttention2d, kernel_size: tuple[int, int], stride: tuple[int, int], trim: tuple[int, int]
    ) -> None:
        super().__init__()
        self.attention = attention
        self.in_channels = attention.in_channels
        self.out_channels = attention.out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.trim = trim
        # ceil((H - m) / s) = floor((H - (m - s + 1)) / s): where m >= s - 1, less is cropped and all windows are whole.
        whole = all(m >= s - 1 for m, s in zip(trim, stride, strict=True))
        crop = tuple(m - s + 1 for m, s in zip(trim, stride, strict=True)) if whole else trim
        self.ceil_mode = not whole
        self._crop = _both_sides(tuple(-max(0, m) for m in crop))
        self._grow = _both_sides(tuple(max(0, -m) for m in crop))

    @property
    def weight(self) -> Tensor:
        """The attention's projection, since networks read dtype and device from a patch embedding's weight."""
        return self.attention.qkv.weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil((H - m) / s), ceil((W - m) / s)); also without B."""
        height, width = x.shape[-2:]
        if height <= self.trim[0] or width <= self.trim[1]:
            smallest = tuple(max(1, m + 1) for m in self.trim)
            raise ArgumentError(
                f"the map {(height, width)} is smaller than {smallest}, the smallest that the convolution accepted"
            )
        if any(self._grow):
            x = F.pad(x, self._grow)
        y = self.attention(x)
        if any(self._crop):
            y = F.pad(y, self._crop)  # negative padding crops
        if self.stride == (1, 1):
            return y
        return F.avg_pool2d(y, self.stride, ceil_mode=self.ceil_mode, count_include_pad=False)

    def extra_repr(self) -> str:
        """The convolution's kernel, stride and trim."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, trim={self.trim}"


def _both_sides(amounts: tuple[int, ...]) -> list[int]:
    """Amounts of (rows, columns) split between two sides, in the order of F.pad: left, right, top, bottom."""
    return [part for amount in reversed(amounts) for part in (int(amount / 2), amount - int(amount / 2))]
