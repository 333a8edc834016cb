"""Bottleneck ResNets with convolution or local attention as the spatial operation (Section 4.1 of the paper).

Shapes: B batch, C channels, H x W the map.
"""

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sasa.errors import ArgumentError
from sasa.models.config import EXPANSION, STEM_HEADS, ResNetConfig
from sasa.models.weights import save_network
from sasa.nn import AttentionStem, LocalAttention2d
from sasa.nn.conv_norm_act import conv_norm_act
from sasa.nn.fold import is_folded


def spatial_layer(config: ResNetConfig, kind: str, channels: int, stride: int) -> nn.Module:
    """What stands in the middle of a bottleneck: a 3 x 3 convolution ("c") or local attention ("a")."""
    if kind == "c":
        return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
    return LocalAttention2d(
        channels,
        channels,
        config.kernel_size,
        stride,
        config.padding,
        config.num_heads,
        position=config.position,
        content=config.content,
    )


class ConvNorm(nn.Sequential):
    """A convolution and its batch norm, in one pass where that is possible."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> what the convolution makes of it, normalised."""
        conv, norm = self
        return conv_norm_act(input, conv, norm, relu=False)


class Bottleneck(nn.Module):
    """1 x 1 down, spatial operation, 1 x 1 up, around them the shortcut; batch norm and ReLU after each.

    The spatial operation strides, not the first 1 x 1; the last 1 x 1 mixes the attention heads.
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
    """The first layer, by name: see `ResNetConfig.stem`."""
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
        layers["attention"] = LocalAttention2d(
            config.in_chans,
            channels,
            config.kernel_size,
            1,
            config.padding,
            STEM_HEADS,
            position=config.position,
            content=config.content,
        )
    layers["norm"] = nn.BatchNorm2d(channels)
    layers["relu"] = nn.ReLU(inplace=True)
    if config.stem == "conv":
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(layers)


def default_cfg(config: ResNetConfig) -> dict[str, Any]:
    """What timm asks of a network: the images it is meant for (ImageNet's) and its first and last layer."""
    side = -(-224 // (8 * config.stem_reduction))
    return {
        "num_classes": config.num_classes,
        "input_size": (config.in_chans, 224, 224),
        "fixed_input_size": False,
        "pool_size": (side, side),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "stem.conv" if config.stem.endswith("conv") else (),
        "classifier": "fc",
    }


@contextlib.contextmanager
def scratch_buffers(block: nn.Module) -> Iterator[None]:
    """Inside, batch norms move copies of their running statistics; after it the block has its own again."""
    kept = [(module, *item) for module in block.modules() for item in module.named_buffers(recurse=False)]
    try:
        for module, name, buffer in kept:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), computed again in the backward pass, which must not move batch norm's statistics a second time."""
    if torch.compiler.is_compiling():  # a compiled graph repeats arithmetic only, and knows no contexts
        return checkpoint(block, x, use_reentrant=False)  # pyright: ignore[reportReturnType]
    contexts = lambda: (contextlib.nullcontext(), scratch_buffers(block))  # noqa: E731
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)  # pyright: ignore[reportReturnType]


class ResNet(nn.Module):
    """Stem, four groups of bottlenecks, average pool, linear classifier.

    Args:
        config: what decides the network.
        name: the name it was made by, for messages and config.json.

    Shape:
        (B, in_chans, H, W) -> (B, num_classes), any H, W >= 1.
    """

    def __init__(self, config: ResNetConfig, name: str = "resnet") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.metadata: dict[str, Any] = {}
        # timm's names for it: pretrained_cfg, and default_cfg from before.
        self.pretrained_cfg = self.default_cfg = {"architecture": name, **default_cfg(config)}
        self.num_classes = config.num_classes
        self.in_chans = config.in_chans
        self.global_pool = config.global_pool
        self.drop_rate = 0.0
        self.grad_checkpointing = False

        self.stem = make_stem(config)
        channels = config.stem_channels
        self.feature_info = [{"num_chs": channels, "reduction": config.stem_reduction, "module": "stem"}]
        for number, (blocks, width, kind) in enumerate(
            zip(config.layers, config.group_widths, config.groups, strict=True), start=1
        ):
            stride = 1 if number == 1 else 2
            group = []
            for index in range(blocks):
                group.append(Bottleneck(config, kind, channels, width, stride if index == 0 else 1))
                channels = width * EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*group))
            reduction = config.stem_reduction * 2 ** (number - 1)
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"layer{number}"})
        self.num_features = self.head_hidden_size = channels
        self.fc = nn.Linear(channels, config.num_classes) if config.num_classes else nn.Identity()
        self._init_convolutions()

    def _init_convolutions(self) -> None:
        """Kaiming for convolutions outside attention, which has its own; gamma 0 at the end of each block."""
        attention = {m.qkv for m in self.modules() if isinstance(m, LocalAttention2d)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in attention:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck) and self.config.zero_init_residual:
                nn.init.zeros_(module.norm3.weight)

    @property
    def groups(self) -> list[nn.Sequential]:
        """The four groups of blocks, coarser from one to the next."""
        return [self.get_submodule(f"layer{number}") for number in range(1, 5)]  # pyright: ignore[reportReturnType]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_features, h, w), the map before pooling."""
        x = self.stem(x)
        for group in self.groups:
            x = self._run_group(group, x)
        return x

    def _run_group(self, group: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return group(x)  # the module itself, so that its hooks run
        for block in group:
            x = checkpointed(block, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, num_features, h, w) -> (B, num_classes), or the pooled features before the classifier."""
        if self.global_pool == "avg":
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps after the stem (0) and after each group (1 to 4), and the last one, as timm has it.

        Args:
            x: (B, in_chans, H, W).
            indices: which maps; an int n means the last n, None all; negative ones count from the end.
            norm: accepted for timm's sake: there is no final norm.
            stop_early: compute nothing beyond the last map asked for.
            output_fmt: "NCHW" is the only one.
            intermediates_only: return the list alone.
        """
        if output_fmt != "NCHW":
            raise ArgumentError(f'output_fmt must be "NCHW", got {output_fmt!r}')
        wanted = self.intermediate_indices(indices)
        maps = {}
        x = self.stem(x)
        for index in range(5):
            if index:
                if stop_early and index > max(wanted):
                    break
                x = self._run_group(self.groups[index - 1], x)
            if index in wanted:
                maps[index] = x
        intermediates = [maps[index] for index in wanted]
        return intermediates if intermediates_only else (x, intermediates)

    @staticmethod
    def intermediate_indices(indices: int | list[int] | tuple[int, ...] | None) -> list[int]:
        """Indices of maps, 0 the stem to 4 the last group, as `forward_intermediates` takes them."""
        if indices is None:
            return list(range(5))
        if isinstance(indices, int):
            if not 1 <= indices <= 5:
                raise ArgumentError(f"indices ({indices}), a number of last maps, must be 1 to 5")
            return list(range(5 - indices, 5))
        wanted = [index + 5 if index < 0 else index for index in indices]
        if not wanted or any(not 0 <= index < 5 for index in wanted):
            raise ArgumentError(f"indices ({list(indices)}) must lie in 0 (stem) to 4 (last group)")
        return wanted

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the groups behind the last map asked for, and the classifier; the indices, resolved.

        A classifier that the last map no longer fits goes even with `prune_head=False`.
        """
        wanted = self.intermediate_indices(indices)
        last = max(wanted)
        for number in range(last + 1, 5):
            setattr(self, f"layer{number}", nn.Sequential())
        self.num_features = self.head_hidden_size = int(self.feature_info[last]["num_chs"])
        if prune_head or last < 4:
            self.reset_classifier(0, "")
        return wanted

    def save_pretrained(self, directory: str | Path, **metadata: Any) -> None:
        """Write model.safetensors and config.json; `sasa.create_model(directory)` reads them back.

        Args:
            directory: made if it is not there.
            **metadata: what belongs to the weights (labels, preprocessing, ...), added to `self.metadata`.
        """
        if is_folded(self):
            raise ArgumentError(
                f"this {self.name} was made by optimize_for_inference and lacks its batch norms: "
                "save the original, and optimize again after loading"
            )
        metadata = {**self.metadata, **metadata}
        save_network(directory, self.state_dict(), self.name, self.config.to_dict(), metadata)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, freshly initialised; 0 classes gives features, global_pool "" leaves them a map."""
        pool = self.global_pool if global_pool is None else global_pool
        self.config = dataclasses.replace(self.config, num_classes=num_classes, global_pool=pool)
        like = next(self.parameters())
        fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.fc = fc.to(device=like.device, dtype=like.dtype)
        self.num_classes, self.global_pool = num_classes, pool

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of blocks in training, and compute each block again in the backward pass."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that assign parameters to depths, as timm's layer-wise decay reads them."""
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay spares beside norms and biases: positions and the mixture's embeddings."""
        names = ("rel_row", "rel_col", "emb_row", "emb_col", "nu")
        return {name for name, _ in self.named_parameters() if name.rsplit(".", 1)[-1] in names}


class FeaturePyramid(nn.Module):
    """A network without its head: a list of maps, fine to coarse, for detection.

    Args:
        body: the network; groups behind the last map asked for are dropped, and so is its classifier.
        out_indices: which maps, 0 the stem and 1 to 4 the groups (C2 to C5).

    `channels` and `reductions` list what each map has.
    """

    def __init__(self, body: ResNet, out_indices: tuple[int, ...] = (1, 2, 3, 4)) -> None:
        super().__init__()
        self.body = body
        self.out_indices = body.prune_intermediate_layers(out_indices)
        self.channels = [int(body.feature_info[index]["num_chs"]) for index in self.out_indices]
        self.reductions = [int(body.feature_info[index]["reduction"]) for index in self.out_indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> maps (B, channels[n], ~H / reductions[n], ~W / reductions[n])."""
        return self.body.forward_intermediates(x, self.out_indices, stop_early=True, intermediates_only=True)
