"""`Conversion`: the report of `convert`, and the text that describes layers in it."""

from dataclasses import dataclass

from torch import nn

from sasa.nn.attention import LocalAttention2d
from sasa.nn.fitted import FittedAttention2d


@dataclass(frozen=True)
class Replacement:
    """One convolution that was replaced by attention."""

    name: str  # of the module in both networks; "" for the network itself
    before: str
    after: str
    parameters_before: int
    parameters_after: int

    @classmethod
    def of(cls, names: list[str], conv: nn.Conv2d, layer: LocalAttention2d | FittedAttention2d) -> "Replacement":
        """From the convolution, all its names, and the layer in its place."""
        before = describe(conv) + "".join(f", also {name}" for name in names[1:])
        return cls(names[0], before, _describe_attention(layer), count_parameters(conv), count_parameters(layer))


@dataclass(frozen=True)
class Kept:
    """One spatial convolution that was kept, and the reason."""

    name: str
    convolution: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """Result of a call of `convert`; `str()` is a table. Shared parameters count once, frozen ones count too."""

    replacements: tuple[Replacement, ...]
    kept: tuple[Kept, ...]
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        rows = [("name", "before", "after", "parameters before", "after")]
        for r in self.replacements:
            rows.append(
                (display_name(r.name), r.before, r.after, f"{r.parameters_before:,}", f"{r.parameters_after:,}")
            )
        rows += [(display_name(k.name), k.convolution, f"kept: {k.reason}", "", "") for k in self.kept]
        summary = f"{len(self.replacements)} replaced, {len(self.kept)} kept"
        rows.append(("whole network", "", summary, f"{self.parameters_before:,}", f"{self.parameters_after:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        columns = list(enumerate(widths))
        aligned = [[row[i].rjust(w) if i > 2 else row[i].ljust(w) for i, w in columns] for row in rows]
        return "\n".join("  ".join(row).rstrip() for row in aligned)


def describe(conv: nn.Conv2d) -> str:
    """Type, channels, kernel, stride and groups of a convolution in a few words."""
    text = f"{type(conv).__name__} {conv.in_channels} -> {conv.out_channels}, {_times(conv.kernel_size)}"
    text += "" if conv.stride == (1, 1) else f", stride {_once(conv.stride)}"
    return text + ("" if conv.groups == 1 else f", groups {conv.groups}")


def _describe_attention(layer: LocalAttention2d | FittedAttention2d) -> str:
    attention = layer.attention if isinstance(layer, FittedAttention2d) else layer
    stride = (layer.stride, layer.stride) if isinstance(layer.stride, int) else layer.stride
    text = f"{type(layer).__name__} {attention.in_channels} -> {attention.out_channels}, "
    text += _times((attention.kernel_size, attention.kernel_size))
    text += "" if stride == (1, 1) else f", stride {_once(stride)}"
    text += f", {attention.num_heads} head" + ("" if attention.num_heads == 1 else "s")
    return text + ("" if attention.position == "relative" else f", position {attention.position}")


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _times(pair: tuple[int, ...]) -> str:
    return " x ".join(map(str, pair))


def _once(pair: tuple[int, ...]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else _times(pair)


def display_name(name: str) -> str:
    """The name of a module for messages: the root of a network has an empty one."""
    return name or "the network itself"
