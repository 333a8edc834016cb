"""`ResNet`: bottleneck ResNets with convolution or local attention as the spatial operation (Section 4.1).

Shapes: B batch, C channels, H x W the map.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sasa.errors import ArgumentError
from sasa.models.blocks import Bottleneck, embedding_names, make_stem
from sasa.models.config import EXPANSION, ResNetConfig
from sasa.models.weights import save_network
from sasa.nn import LocalAttention2d


def default_cfg(config: ResNetConfig) -> dict[str, Any]:
    """The settings that timm reads from a network: its image size and normalisation, its first and last layer."""
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
    """Within this context batch norms update copies of their running statistics; the block keeps its own."""
    kept = [(module, *item) for module in block.modules() for item in module.named_buffers(recurse=False)]
    try:
        for module, name, buffer in kept:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), recomputed in the backward pass without a second update of the running statistics."""
    if torch.compiler.is_compiling():  # a compiled graph recomputes arithmetic only and supports no contexts
        return checkpoint(block, x, use_reentrant=False)  # pyright: ignore[reportReturnType]
    contexts = lambda: (contextlib.nullcontext(), scratch_buffers(block))  # noqa: E731
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)  # pyright: ignore[reportReturnType]


class ResNet(nn.Module):
    """Stem, four groups of bottlenecks, average pool, linear classifier.

    Args:
        config: options of the network.
        name: the name that it was created by, for messages and config.json.

    Shape:
        (B, in_chans, H, W) -> (B, num_classes), any H, W >= 1.
    """

    def __init__(self, config: ResNetConfig, name: str = "resnet") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.metadata: dict[str, Any] = {}
        # timm reads pretrained_cfg; older versions read default_cfg.
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
        """Kaiming initialisation of convolutions outside attention layers; gamma 0 at the end of each block."""
        attention = {m.qkv for m in self.modules() if isinstance(m, LocalAttention2d)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in attention:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck) and self.config.zero_init_residual:
                nn.init.zeros_(module.norm3.weight)

    @property
    def groups(self) -> list[nn.Sequential]:
        """The four groups of blocks, fine to coarse."""
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
        """Return the last map and the maps after the stem (0) and after each group (1 to 4), as in timm.

        Args:
            x: (B, in_chans, H, W).
            indices: which maps; an int n means the last n, None all; negative ones count from the end.
            norm: accepted for compatibility with timm; there is no final norm.
            stop_early: compute nothing beyond the last map selected.
            output_fmt: only "NCHW".
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
        """Resolve indices as `forward_intermediates` takes them: 0 the stem, 4 the last group."""
        if indices is None:
            return list(range(5))
        if isinstance(indices, int):
            if not 1 <= indices <= 5:
                raise ArgumentError(f"indices ({indices}) selects the last maps and must be 1 to 5")
            return list(range(5 - indices, 5))
        wanted = [index + 5 if index < 0 else index for index in indices]
        if not wanted or any(not 0 <= index < 5 for index in wanted):
            raise ArgumentError(f"indices ({list(indices)}) must lie in 0 (stem) to 4 (last group)")
        return wanted

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the groups after the last map selected, and the classifier; return the resolved indices.

        A classifier that does not fit the last map is dropped even with `prune_head=False`.
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
            directory: created if missing.
            **metadata: labels, preprocessing, ... of the weights, added to `self.metadata`.
        """
        save_network(self, directory, metadata, ResNet)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one; with 0 classes the output is features, a map with global_pool ""."""
        pool = self.global_pool if global_pool is None else global_pool
        self.config = dataclasses.replace(self.config, num_classes=num_classes, global_pool=pool)
        like = next(self.parameters())
        fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.fc = fc.to(device=like.device, dtype=like.dtype)
        self.num_classes, self.global_pool = num_classes, pool

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the inputs of blocks in training, and recompute each block in the backward pass."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that assign parameters to depths, as timm's layer-wise decay reads them."""
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside norms and biases: position tables and embeddings of the stem."""
        return embedding_names(self)


class FeaturePyramid(nn.Module):
    """A network without its head: a list of maps, fine to coarse, for detection.

    Args:
        body: the network; groups after the last map selected are dropped, and so is its classifier.
        out_indices: maps to return, 0 the stem and 1 to 4 the groups (C2 to C5).

    `channels` and `reductions` list the properties of each map.
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
