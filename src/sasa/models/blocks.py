"""Parts of the bottleneck ResNets: spatial layer, bottleneck block, stem (Section 4.1 of the paper).

Shapes: B batch, C channels, H x W the map.
"""

from collections import OrderedDict

from torch import Tensor, nn

from sasa.models.config import EXPANSION, STEM_HEADS, ResNetConfig
from sasa.nn import AttentionStem, LocalAttention2d
from sasa.nn.conv_norm_act import conv_norm_act


def spatial_layer(config: ResNetConfig, kind: str, channels: int, stride: int) -> nn.Module:
    """The layer in the middle of a bottleneck: a 3 x 3 convolution ("c") or local attention ("a")."""
    if kind == "c":
        return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
    return _attention(config, channels, channels, stride, config.num_heads)


def _attention(config: ResNetConfig, in_channels: int, channels: int, stride: int, num_heads: int) -> LocalAttention2d:
    return LocalAttention2d(
        in_channels,
        channels,
        config.kernel_size,
        stride,
        config.padding,
        num_heads,
        position=config.position,
        content=config.content,
    )


class ConvNorm(nn.Sequential):
    """A convolution and its batch norm, fused where possible."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H', W'), the convolution's output, normalised."""
        conv, norm = self
        return conv_norm_act(input, conv, norm, relu=False)


class Bottleneck(nn.Module):
    """1 x 1 convolution down, spatial layer, 1 x 1 convolution up, each with batch norm and ReLU; and the shortcut.

    The spatial layer has the stride, not the first convolution. The last convolution mixes the attention heads.
    """

    def __init__(self, config: ResNetConfig, kind: str, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * EXPANSION
        self.down = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.spatial = spatial_layer(config, kind, channels, stride)
        self.norm2 = nn.BatchNorm2d(channels)
        self.up = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * channels, ceil(H / stride), ceil(W / stride))."""
        y = conv_norm_act(x, self.down, self.norm1)
        y = conv_norm_act(y, self.spatial, self.norm2)
        return conv_norm_act(y, self.up, self.norm3, residual=self.shortcut(x))


def make_stem(config: ResNetConfig) -> nn.Module:
    """The first layers of the network that `ResNetConfig.stem` names."""
    channels = config.stem_channels
    if config.stem == "attention":
        return AttentionStem(
            config.in_chans,
            channels,
            block_size=config.stem_block,
            num_heads=STEM_HEADS,
            values=config.stem_values,
            num_mixtures=config.stem_mixtures,
            position=config.position,
            content=config.content,
            activation=config.stem_activation,
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if config.stem == "conv":
        layers["conv"] = nn.Conv2d(config.in_chans, channels, 7, stride=2, padding=3, bias=False)
    elif config.stem == "small_conv":
        layers["conv"] = nn.Conv2d(config.in_chans, channels, 3, padding=1, bias=False)
    else:
        layers["attention"] = _attention(config, config.in_chans, channels, 1, STEM_HEADS)
    layers["norm"] = nn.BatchNorm2d(channels)
    layers["relu"] = nn.ReLU(inplace=True)
    if config.stem == "conv":
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(layers)


def embedding_names(network: nn.Module) -> set[str]:
    """Parameters without weight decay beside norms and biases: position tables and the embeddings of stems."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, LocalAttention2d | AttentionStem)
        for name in module.embedding_names
    }
