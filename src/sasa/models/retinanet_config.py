"""`RetinaNetConfig`: the options of a detector and of its backbone, saved beside the weights as one flat table."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from sasa.errors import ArgumentError
from sasa.models.config import MOST_BLOCKS, VARIANTS, ResNetConfig, check_options, is_integer

CHANNELS = 256  # of the pyramid and the heads, Section A.3; `width` scales it
LEVELS = (3, 4, 5, 6, 7)
SPATIAL = {"conv": "c", "attention": "a"}
NORMS = ("batch", "group")
ANCHORS = {6: 2, 9: 3}  # anchors of a position -> sizes within an octave, with three shapes each

# Layers of the pyramid and of the heads by the end of a detector's name.
SUFFIXES = {
    "": {"pyramid": "conv", "heads": "conv"},
    "_attnheads": {"pyramid": "conv", "heads": "attention"},
    "_attn": {"pyramid": "attention", "heads": "attention"},
}
DETECTORS: dict[str, dict[str, Any]] = {
    f"retinanet_{backbone}{suffix}": {**VARIANTS[backbone], **options}
    for backbone in VARIANTS
    for suffix, options in SUFFIXES.items()
}


@dataclass(frozen=True)
class RetinaNetConfig:
    """RetinaNet over a ResNet of convolution or attention (Section 4.2 and A.3 of the paper).

    Args:
        backbone: the ResNet; its width scales pyramid and heads too, and its attention options (kernel_size,
            num_heads, position, content, padding) are those of their attention.
        pyramid: "conv", or "attention" in place of the pyramid's 3 x 3 convolutions (the text of A.3).
        heads: "conv", or "attention" in place of the heads' 3 x 3 convolutions (the rows of Table 2).
        num_classes: number of outputs for each anchor.
        anchors: number for each position: 6 (to which the counts of Table 2 correspond) or 9.
        anchor_scale: side of the smallest anchor, in positions of its map: 4 is 32 pixels on P3.
        head_layers: number of layers of each head before its prediction.
        head_shortcuts: whether each layer of the heads has a shortcut. The paper has none; with them attention heads
            learn many times faster (docs/choices.md).
        norm: "batch" (separate statistics for each level) or "group" (32 groups), in pyramid and heads.
    """

    backbone: ResNetConfig
    pyramid: str = "conv"
    heads: str = "conv"
    num_classes: int = 90
    anchors: int = 6
    anchor_scale: float = 4.0
    head_layers: int = 4
    head_shortcuts: bool = False
    norm: str = "batch"

    def __post_init__(self) -> None:
        for name, known in (("pyramid", SPATIAL), ("heads", SPATIAL), ("norm", NORMS), ("anchors", ANCHORS)):
            value = getattr(self, name)
            if isinstance(value, float) or value not in tuple(known):  # 6.0 == 6, but is not a number of channels
                raise ArgumentError(f"{name} must be {' or '.join(map(str, known))}, got {value!r}")
        for name in ("num_classes", "head_layers"):
            if not is_integer(getattr(self, name), 1):
                raise ArgumentError(f"{name} must be an integer of at least 1, got {getattr(self, name)!r}")
        if self.head_layers > MOST_BLOCKS:
            raise ArgumentError(f"head_layers must be at most {MOST_BLOCKS}, got {self.head_layers}")
        if not isinstance(self.head_shortcuts, bool):
            raise ArgumentError(f"head_shortcuts must be True or False, got {self.head_shortcuts!r}")
        scale = self.anchor_scale
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < 1000:
            raise ArgumentError(f"anchor_scale must be a number above 0 and below 1000, got {scale!r}")

    @property
    def channels(self) -> int:
        """Channels of all maps of the pyramid and of the heads."""
        return self.backbone.scaled(CHANNELS)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level in pixels of the image."""
        return tuple(self.backbone.stem_reduction * 2 ** (level - 2) for level in LEVELS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        own = dataclasses.asdict(self)
        del own["backbone"]
        return {**self.backbone.to_dict(), **own}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RetinaNetConfig":
        """The inverse of `to_dict`; raises for unknown options and names the nearest known one."""
        own = {field.name for field in dataclasses.fields(cls)} - {"backbone"}
        check_options(values, [*own, *(field.name for field in dataclasses.fields(ResNetConfig))], "a detector")
        backbone = {name: value for name, value in values.items() if name not in own}
        config = ResNetConfig.from_dict({**backbone, "num_classes": 0})
        return cls(config, **{name: value for name, value in values.items() if name in own})
