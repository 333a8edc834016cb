"""RetinaNet with convolution or attention in its backbone, its pyramid and its heads (Section 4.2 and A.3).

Shapes: B batch, C channels, h x w a level's map, A all anchors of an image, K classes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.errors import SasaError
from sasa.models.blocks import embedding_names, spatial_layer
from sasa.models.resnet import FeaturePyramid, ResNet
from sasa.models.retinanet_config import LEVELS, SPATIAL, RetinaNetConfig
from sasa.models.weights import save_network
from sasa.nn import LocalAttention2d
from sasa.nn.conv_norm_act import conv_norm_act

PRIOR = 0.01  # probability of an object at an anchor before training, for the focal loss
CLASSIFIER_ONLY = ("num_classes", "global_pool", "zero_init_residual")  # options without effect on a trained backbone
HEAD_STD = 0.01  # of the heads' weights; A.3 gives it for W_V
GROUP_CHANNELS = 8  # 32 groups of the paper's 256 channels


class Outputs(NamedTuple):
    """Output of the network for a batch.

    Args:
        logits: (B, A, K), of each class at each anchor.
        deltas: (B, A, 4), from the anchor to the box, encoded as by torchvision's BoxCoder.
        sizes: (h, w) of each level's map; anchors are ordered by level, row, column, and anchor of the position.
    """

    logits: Tensor
    deltas: Tensor
    sizes: list[tuple[int, int]]


def make_norm(config: RetinaNetConfig) -> nn.Module:
    """The norm of one level after a layer of the pyramid or the heads."""
    channels = config.channels
    if config.norm == "group":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // GROUP_CHANNELS)), channels)
    return nn.BatchNorm2d(channels)


class Pyramid(nn.Module):
    """Maps P3 to P7 of equal width from the backbone's C3 to C5: lateral 1 x 1, coarse added to fine, spatial layer.

    P6 and P7 come from P5 and P6 by spatial layers of stride 2.
    """

    def __init__(self, config: RetinaNetConfig, in_channels: Sequence[int]) -> None:
        super().__init__()
        kind, channels = SPATIAL[config.pyramid], config.channels
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.layers = nn.ModuleList(
            spatial_layer(config.backbone, kind, channels, 1 if level <= 5 else 2) for level in LEVELS
        )
        self.norms = nn.ModuleList(make_norm(config) for _ in LEVELS)
        for conv in [m for m in (*self.laterals, *self.layers) if isinstance(m, nn.Conv2d)]:
            nn.init.kaiming_uniform_(conv.weight, a=1)  # keeps the variance: no ReLU follows
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] -> [P3, ..., P7], each (B, C, h, w) with half the side of the one before, rounded up."""
        merged = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for fine in (1, 0):
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], size=merged[fine].shape[-2:])
        levels = [conv_norm_act(x, self.layers[n], self.norms[n], relu=False) for n, x in enumerate(merged)]
        levels.append(conv_norm_act(levels[-1], self.layers[3], self.norms[3], relu=False))
        levels.append(conv_norm_act(F.relu(levels[-1]), self.layers[4], self.norms[4], relu=False))
        return levels


class Head(nn.Module):
    """Layers shared by the levels, with separate norms for each level, then the prediction at each anchor.

    A convolutional head ends with a 3 x 3 convolution. An attention head ends with one more attention layer and a
    pointwise convolution, which mixes the attention heads.

    Args:
        config: of the detector.
        outputs: number of values predicted for each anchor.
    """

    def __init__(self, config: RetinaNetConfig, outputs: int) -> None:
        super().__init__()
        kind, channels = SPATIAL[config.heads], config.channels
        depth = config.head_layers + (kind == "a")
        self.outputs, self.shortcuts = outputs, config.head_shortcuts
        self.layers = nn.ModuleList(spatial_layer(config.backbone, kind, channels, 1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.ModuleList(make_norm(config) for _ in LEVELS) for _ in range(depth))
        side = 1 if kind == "a" else 3
        self.predict = nn.Conv2d(channels, config.anchors * outputs, side, padding=side // 2)
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        for layer in self.layers:
            if isinstance(layer, LocalAttention2d):
                nn.init.normal_(layer.qkv.weight[-layer.out_channels :], std=HEAD_STD)
            else:
                nn.init.normal_(layer.weight, std=HEAD_STD)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.predict.weight, std=HEAD_STD)
        assert self.predict.bias is not None
        nn.init.zeros_(self.predict.bias)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """[(B, C, h, w), ...] -> (B, A, outputs)."""
        return torch.cat([self._level(x, level) for level, x in enumerate(levels)], 1)

    def _level(self, x: Tensor, level: int) -> Tensor:
        for layer, norms in zip(self.layers, self.norms, strict=True):
            y = conv_norm_act(x, layer, norms[level])  # pyright: ignore[reportIndexIssue]
            x = x + y if self.shortcuts else y
        x = self.predict(x)
        batch, channels, height, width = x.shape
        anchors = channels // self.outputs  # no -1 in the shapes: an empty batch leaves it open
        x = x.view(batch, anchors, self.outputs, height, width).permute(0, 3, 4, 1, 2)
        return x.reshape(batch, height * width * anchors, self.outputs)


class RetinaNet(nn.Module):
    """Backbone, pyramid and two heads. `sasa.models.boxes` computes losses and boxes from its output.

    Args:
        config: options of the network.
        name: the name that it was created by, for messages and config.json.

    Shape:
        (B, in_chans, H, W) -> `Outputs`, any H, W >= 1; images of several sizes are padded to multiples of 32.
    """

    def __init__(self, config: RetinaNetConfig, name: str = "retinanet") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.metadata: dict[str, Any] = {}
        self.num_classes = config.num_classes
        self.in_chans = config.backbone.in_chans
        self.backbone = FeaturePyramid(ResNet(config.backbone, f"backbone of {name}"), (2, 3, 4))
        self.pyramid = Pyramid(config, self.backbone.channels)
        self.classify = Head(config, config.num_classes)
        self.locate = Head(config, 4)
        assert self.classify.predict.bias is not None
        nn.init.constant_(self.classify.predict.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, x: Tensor) -> Outputs:
        """(B, in_chans, H, W) -> logits and deltas at all anchors."""
        levels = self.pyramid(self.backbone(x))
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        return Outputs(self.classify(levels), self.locate(levels), sizes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the inputs of the backbone's blocks in training, and recompute each in the backward pass."""
        self.backbone.body.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside norms and biases: position tables and embeddings of the stem."""
        return embedding_names(self)

    def load_backbone(self, other: ResNet) -> None:
        """Take the weights of a classifier with the same options, except its last layer.

        Raises:
            SasaError: an option differs from the backbone's; names the first that does.
        """
        ours, theirs = self.config.backbone.to_dict(), other.config.to_dict()
        for name, value in ours.items():
            if name not in CLASSIFIER_ONLY and theirs[name] != value:
                raise SasaError(
                    f"the backbone has {name}={value!r}, but its weights come from a network with {theirs[name]!r}"
                )
        state = {name: tensor for name, tensor in other.state_dict().items() if not name.startswith("fc.")}
        self.backbone.body.load_state_dict(state)

    def save_pretrained(self, directory: str | Path, **metadata: Any) -> None:
        """Write model.safetensors and config.json; `sasa.create_model(directory)` reads them back."""
        save_network(self, directory, metadata, RetinaNet)
