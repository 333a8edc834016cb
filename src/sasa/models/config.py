"""`ResNetConfig`: the options of a network, checked once and saved beside the weights as config.json; named networks.

`VARIANTS` has the networks of Tables 1 and 3. The other tables vary options: kernel_size, position, content,
stem_values. The baseline `resnet26` has 1, 2, 4, 1 blocks, as in the paper; timm's network of that name differs.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sasa.errors import ArgumentError
from sasa.nn.position import find_position
from sasa.nn.stem import VALUES
from sasa.ops.checks import check_kernel_size, check_padding

STEMS = ("attention", "conv", "small_attention", "small_conv")
STEM_HEADS = 4  # Section A.1
EXPANSION = 4
BASE_WIDTHS = (64, 128, 256, 512)
POOLS = ("avg", "")
MOST_BLOCKS = 1000  # of a group; a mistyped number would build blocks until the memory is full
LEAST = {"num_classes": 0, "in_chans": 1, "num_heads": 1, "stem_block": 1, "stem_mixtures": 1}


@dataclass(frozen=True)
class ResNetConfig:
    """A bottleneck ResNet whose spatial operation is convolution or attention, group by group.

    Args:
        layers: blocks in each of the four groups: (3, 4, 6, 3) for 50 layers.
        stem: "attention" (Section 3.2), "conv" (7 x 7, stride 2, and max pool), and for small images, at full
            resolution, "small_conv" (3 x 3) and "small_attention" (no spatial convolution).
        groups: a letter for each group: "c" convolution, "a" attention.
        num_classes: number of outputs; with 0 the output is pooled features.
        in_chans: channels of the image.
        width: factor of all channels, rounded to a multiple of 2 * num_heads.
        kernel_size: side of the attention window.
        num_heads: attention heads of each layer (the stem has 4).
        position: "relative", "absolute" or "none" (Table 5).
        content: False leaves q.k out (Table 6).
        padding: "zeros" or "mask", as in `LocalAttention2d`.
        stem_block: side of the attention stem's blocks, which is also its stride.
        stem_values: "mixture", "pointwise" or "convolution" (Table 7).
        stem_mixtures: number of value matrices of the stem's mixture.
        stem_activation: ReLU after the attention stem's batch norm.
        zero_init_residual: initialise gamma of the last batch norm of each block with 0 (docs/choices.md: attention
            networks need it to train).
        global_pool: "avg", or "" to return features as a map; a classifier needs "avg".
    """

    layers: tuple[int, int, int, int]
    stem: str = "attention"
    groups: str = "aaaa"
    num_classes: int = 1000
    in_chans: int = 3
    width: float = 1.0
    kernel_size: int = 7
    num_heads: int = 8
    position: str = "relative"
    content: bool = True
    padding: str = "zeros"
    stem_block: int = 4
    stem_values: str = "mixture"
    stem_mixtures: int = 5
    stem_activation: bool = True
    zero_init_residual: bool = True
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise ArgumentError(f"stem must be one of {', '.join(STEMS)}; got {self.stem!r}")
        if not isinstance(self.groups, str) or len(self.groups) != 4 or set(self.groups) - {"a", "c"}:
            raise ArgumentError(f'groups must be four letters, "a" attention or "c" convolution; got {self.groups!r}')
        if self.stem_values not in VALUES:
            raise ArgumentError(f"stem_values must be one of {', '.join(VALUES)}; got {self.stem_values!r}")
        if self.global_pool not in POOLS or (self.num_classes and not self.global_pool):
            raise ArgumentError(
                f'global_pool must be "avg", or "" with num_classes=0 for a map without classifier; got '
                f"{self.global_pool!r} with num_classes={self.num_classes!r}"
            )
        self._check_numbers()
        check_kernel_size(self.kernel_size)
        check_padding(self.padding)
        find_position(self.position, self.content)

    def _check_numbers(self) -> None:
        """Check types too: the values may come from an edited config.json."""
        layers = self.layers
        if not isinstance(layers, tuple) or len(layers) != 4 or not all(is_integer(n, 1) for n in layers):
            raise ArgumentError(f"layers must be four numbers of blocks of at least 1; got {layers!r}")
        if max(layers) > MOST_BLOCKS:
            raise ArgumentError(f"layers must be at most {MOST_BLOCKS} blocks in a group; got {layers!r}")
        for name, least in LEAST.items():
            if not is_integer(getattr(self, name), least):
                raise ArgumentError(f"{name} must be an integer of at least {least}, got {getattr(self, name)!r}")
        for name in ("content", "stem_activation", "zero_init_residual"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name} must be True or False, got {getattr(self, name)!r}")
        number = isinstance(self.width, int | float) and not isinstance(self.width, bool)
        if not number or not 0 < self.width < math.inf:
            raise ArgumentError(f"width must be a positive number, got {self.width!r}")

    @property
    def stem_channels(self) -> int:
        """Channels of the stem, divisible by its own heads and the layers' heads."""
        return self._rounded(BASE_WIDTHS[0], math.lcm(2 * self.num_heads, 2 * STEM_HEADS))

    @property
    def group_widths(self) -> tuple[int, ...]:
        """Bottleneck channels of each group; the output of a block has four times as many."""
        return tuple(self.scaled(channels) for channels in BASE_WIDTHS)

    @property
    def stem_reduction(self) -> int:
        """Stride of the stem."""
        return {"attention": self.stem_block, "conv": 4}.get(self.stem, 1)

    def scaled(self, channels: int) -> int:
        """channels * width, rounded to a multiple of 2 * num_heads."""
        return self._rounded(channels, 2 * self.num_heads)

    def _rounded(self, channels: int, multiple: int) -> int:
        return max(multiple, round(channels * self.width / multiple) * multiple)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return {**dataclasses.asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ResNetConfig":
        """The inverse of `to_dict`; raises for unknown options and names the nearest known one."""
        check_options(values, [field.name for field in dataclasses.fields(cls)], "a network")
        if "layers" not in values:
            raise ArgumentError("layers is missing: the number of blocks in each of the four groups")
        layers = values["layers"]
        return cls(**{**values, "layers": tuple(layers) if isinstance(layers, list) else layers})


def check_options(names: Iterable[str], known: Sequence[str], owner: str) -> None:
    """Raise for the first name that is not a known option of `owner`, with the nearest known one."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ArgumentError(
                f"{name!r} is not an option of {owner}" + (f"; did you mean {near[0]!r}?" if near else "")
            )


def is_integer(value: object, least: int) -> bool:
    """Return whether `value` is an integer (not a bool) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


LAYERS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3)}
VARIANTS: dict[str, dict[str, Any]] = {}
for _depth, _layers in LAYERS.items():
    VARIANTS[f"resnet{_depth}"] = {"layers": _layers, "stem": "conv", "groups": "cccc"}
    VARIANTS[f"sasa_resnet{_depth}_convstem"] = {"layers": _layers, "stem": "conv", "groups": "aaaa"}
    VARIANTS[f"sasa_resnet{_depth}"] = {"layers": _layers, "stem": "attention", "groups": "aaaa"}

# Table 3: groups of convolution (c) and of attention (a), all with the convolutional stem. Its first row is
# sasa_resnet50_convstem and its fifth row resnet50.
for _name, _groups in {
    "c1a234": "caaa",
    "c12a34": "ccaa",
    "c123a4": "ccca",
    "c234a1": "accc",
    "c34a12": "aacc",
    "c4a123": "aaac",
}.items():
    VARIANTS[f"sasa_resnet50_{_name}"] = {"layers": LAYERS[50], "stem": "conv", "groups": _groups}
