"""`convert`: a copy of any network in which every spatial convolution is local attention (Section 3.1 of the paper).

Sizes: a convolution of kernel k, stride s and p padded pixels (both sides together) turns a side of H pixels into
ceil((H - m) / s), with m = k - 1 - p the pixels that it *trims*. m is 0 with "same" padding, positive where the
border is lost, negative where more is padded than the kernel needs. Everything here about size follows from (m, s).
"""

import copy
import fnmatch
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.errors import ArgumentError
from sasa.nn.attention import LocalAttention2d
from sasa.nn.position import check_position
from sasa.ops.checks import check_kernel_size, check_padding

GROUPED = ("refuse", "replace", "keep")
Named = dict[nn.Conv2d, list[str]]  # convolutions and all their names
Where = Callable[[str, nn.Conv2d], bool] | str | Sequence[str] | None


@dataclass(frozen=True)
class Replacement:
    """One convolution that became attention; `name` is that of the module in both networks ("" the network itself)."""

    name: str
    before: str
    after: str
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Kept:
    """One spatial convolution that stayed, and why."""

    name: str
    convolution: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """What `convert` did; `str()` is a table. Parameters are counted once each, trainable or not."""

    replacements: tuple[Replacement, ...]
    kept: tuple[Kept, ...]
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        rows = [("name", "before", "after", "parameters before", "after")]
        for r in self.replacements:
            rows.append((_shown(r.name), r.before, r.after, f"{r.parameters_before:,}", f"{r.parameters_after:,}"))
        rows += [(_shown(k.name), k.convolution, f"kept: {k.reason}", "", "") for k in self.kept]
        summary = f"{len(self.replacements)} replaced, {len(self.kept)} kept"
        rows.append(("whole network", "", summary, f"{self.parameters_before:,}", f"{self.parameters_after:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        columns = list(enumerate(widths))
        aligned = [[row[i].rjust(w) if i > 2 else row[i].ljust(w) for i, w in columns] for row in rows]
        return "\n".join("  ".join(row).rstrip() for row in aligned)


class FittedAttention2d(nn.Module):
    """`LocalAttention2d` with the output size of a convolution that is not "same"-padded, or has unequal strides.

    Attention keeps the size of its map; what such a convolution trims is cropped from the attention's result, on
    both sides alike, and what it adds is padded with zeros before. Then the average pool, whose windows are whole
    wherever the size allows: the patches of a 2 x 2 convolution of stride 2 are 2 x 2 windows.

    Args:
        attention: of stride 1.
        kernel_size: of the convolution. Some networks read it, and `stride`, to pad what they pass in (DaViT).
        stride: s of rows and of columns.
        trim: m of rows and of columns: the pixels of a side that the convolution loses at stride 1.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil((H - m) / s), ceil((W - m) / s)), H and W > m; also
        without B.

    Raises:
        ArgumentError: (a ValueError) a map too small for the convolution that this layer replaces.
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
        # ceil((H - m) / s) = floor((H - (m - s + 1)) / s): where m >= s - 1, less is cropped and every window whole.
        whole = all(m >= s - 1 for m, s in zip(trim, stride, strict=True))
        crop = tuple(m - s + 1 for m, s in zip(trim, stride, strict=True)) if whole else trim
        self.ceil_mode = not whole
        self._crop = _both_sides(tuple(-max(0, m) for m in crop))
        self._grow = _both_sides(tuple(max(0, -m) for m in crop))

    @property
    def weight(self) -> Tensor:
        """The attention's projection. Networks ask a patch embedding's weight for its dtype and device."""
        return self.attention.qkv.weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil((H - m) / s), ceil((W - m) / s)); also without B."""
        height, width = x.shape[-2:]
        if height <= self.trim[0] or width <= self.trim[1]:
            smallest = tuple(max(1, m + 1) for m in self.trim)
            raise ArgumentError(
                f"the map {(height, width)} is smaller than {smallest}, the smallest that the convolution took"
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
        """What differs from LocalAttention2d."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, trim={self.trim}"


def convert(
    model: nn.Module,
    *,
    kernel_size: int = 7,
    num_heads: int = 8,
    where: Where = None,
    grouped: str = "refuse",
    padding: str = "zeros",
    position: str = "relative",
) -> nn.Module:
    """A copy of `model` in which every convolution with a kernel larger than 1 is local attention, Section 3.1.

    Each nn.Conv2d (and subclass) with a kernel larger than 1 in any dimension becomes a `LocalAttention2d` of the
    same channels, output size, bias, device, dtype and training mode: alone where the convolution is "same"-padded
    with equal strides, else inside a `FittedAttention2d`. A convolution used in two places stays one layer. The new
    layers are trainable and freshly initialised, but for a bias, which stays as that of the values; all the rest is
    copied with its weights. The original is untouched.

    Args:
        model: any network, or a convolution.
        kernel_size: side of the attention's window, odd, whatever the convolution's was.
        num_heads: heads. A layer whose channels do not divide into that many heads of an even width gets the
            nearest number that does (the smaller of two), one with an odd number of channels also
            `position="none"`; a warning names them.
        where: which convolutions: a function of (name, convolution), or one or more shell patterns of module
            names ("layer4.*"; * also matches dots). None: all.
        grouped: convolutions with groups > 1, depthwise ones too: "refuse", "replace" (by full attention, which
            mixes all channels) or "keep".
        padding: as in `LocalAttention2d`.
        position: as in `LocalAttention2d`.

    Returns:
        The copy. Its attribute `conversion`, a `Conversion`, tells what was replaced and what was kept.

    Raises:
        ArgumentError: (a ValueError) options that do not fit; nothing to replace; a `where` that matches nothing;
            a chosen convolution that is grouped (with "refuse"), dilated, not yet initialised, or of a subclass
            whose forward is not that of a convolution with some padding.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, stride=2, padding=1), torch.nn.ReLU())
    >>> attentive = sasa.convert(network)
    >>> attentive(torch.randn(2, 3, 15, 20)).shape
    torch.Size([2, 32, 8, 10])
    >>> attentive.conversion.replacements[0].after
    'LocalAttention2d 3 -> 32, 7 x 7, stride 2, 8 heads'
    """
    _check_options(kernel_size, num_heads, grouped, padding, position)
    found = _spatial_convolutions(model)
    chosen = _chosen(found, where)
    # In the network's order, so that a seed gives the same layers each time.
    replaced = {c: names for c, names in found.items() if c in chosen and (c.groups == 1 or grouped != "keep")}
    _check_convertible(replaced, chosen, grouped)

    heads = {conv: _heads(conv.out_channels, num_heads, position) for conv in replaced}
    layers = {
        conv: _attention(conv, _shown(names[0]), kernel_size, *heads[conv], padding=padding)
        for conv, names in replaced.items()
    }
    # To deepcopy these convolutions are copied already, wherever they are used: so what is shared stays shared.
    converted = copy.deepcopy(model, {id(conv): layer for conv, layer in layers.items()})
    converted.conversion = Conversion(  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        tuple(_replacement(replaced[conv], conv, layer) for conv, layer in layers.items()),
        tuple(_kept(names, conv, conv in chosen) for conv, names in found.items() if conv not in layers),
        _parameters(model),
        _parameters(converted),
    )
    _warn_of_heads(replaced, heads, num_heads, position)
    return converted


def _check_options(kernel_size: int, num_heads: int, grouped: str, padding: str, position: str) -> None:
    check_kernel_size(kernel_size)
    check_padding(padding)
    check_position(position, content=True)
    if not isinstance(num_heads, int) or num_heads < 1:
        raise ArgumentError(f"num_heads must be a positive integer, got {num_heads!r}")
    if grouped not in GROUPED:
        raise ArgumentError(f"grouped must be one of {', '.join(GROUPED)}; got {grouped!r}")


# Which convolutions


def _spatial_convolutions(model: nn.Module) -> Named:
    """Every convolution with a kernel larger than 1 and all its names, in the order of the network's modules."""
    found: Named = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            found.setdefault(module, []).append(name)
    if not found:
        raise ArgumentError(f"{type(model).__name__} has no nn.Conv2d with a kernel larger than 1: nothing to convert")
    return found


def _chosen(found: Named, where: Where) -> Collection[nn.Conv2d]:
    """Those that `where` chooses by any of their names."""
    if where is None:
        return found
    if callable(where):
        chosen = {conv for conv, names in found.items() if any(where(name, conv) for name in names)}
        if not chosen:
            raise ArgumentError(f"where chooses none of the {len(found)} convolutions: {_listed(found)}")
        return chosen
    patterns = [where] if isinstance(where, str) else where
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ArgumentError(f"where must be a function of (name, convolution) or patterns of names, got {where!r}")
    chosen: set[nn.Conv2d] = set()
    for pattern in patterns:
        matched = {c for c, names in found.items() if any(fnmatch.fnmatchcase(name, pattern) for name in names)}
        if not matched:  # one of several that matches nothing is a misspelling too
            raise ArgumentError(f"where={pattern!r} matches none of the {len(found)} convolutions: {_listed(found)}")
        chosen |= matched
    return chosen


def _check_convertible(replaced: Named, chosen: Collection[nn.Conv2d], grouped: str) -> None:
    if not replaced:
        raise ArgumentError(f'grouped="keep" leaves nothing to convert: all {len(chosen)} chosen have groups > 1')
    lazy: Named = {conv: names for conv, names in replaced.items() if isinstance(conv, nn.LazyConv2d)}
    if lazy:
        raise ArgumentError(f"not yet initialised, run the network once before: {_listed(lazy)}")
    in_groups = {conv: names for conv, names in replaced.items() if conv.groups > 1}
    if in_groups and grouped == "refuse":
        raise ArgumentError(
            f"attention mixes all channels, and {len(in_groups)} of {len(chosen)} convolutions have groups > 1: "
            f'{_listed(in_groups)}; choose grouped="replace" (full attention in their place), grouped="keep", '
            "or leave them out with where="
        )
    for conv, names in replaced.items():
        if any(k > 1 and d > 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)):
            raise ArgumentError(
                f"{_shown(names[0])} has dilation {conv.dilation} with kernel_size {conv.kernel_size}: attention "
                "looks at a window without holes; leave it out with where= (a function of name and convolution)"
            )


# What stands in their place


def _attention(
    conv: nn.Conv2d, name: str, kernel_size: int, num_heads: int, position: str, *, padding: str
) -> LocalAttention2d | FittedAttention2d:
    """The layer in place of `conv`: same channels, output size, bias, device, dtype and mode.

    A bias is kept as that of the values. What attention gives is a mean of values, so it is added as before: a detector
    keeps the prior that its first loss rests on.
    """
    trim = _trim(conv, name)
    stride: tuple[int, int] = conv.stride  # pyright: ignore[reportAssignmentType]
    direct = trim == (0, 0) and stride[0] == stride[1]
    layer = LocalAttention2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size,
        stride=stride[0] if direct else 1,
        padding=padding,
        num_heads=num_heads,
        bias=conv.bias is not None,
        position=position,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    if conv.bias is not None:
        bias = layer.qkv.bias
        assert bias is not None
        with torch.no_grad():
            bias[-conv.out_channels :].copy_(conv.bias)
    fitted = layer if direct else FittedAttention2d(layer, conv.kernel_size, stride, trim)  # pyright: ignore
    return fitted.train(conv.training)


def _trim(conv: nn.Conv2d, name: str) -> tuple[int, int]:
    """m = k - 1 - p of rows and columns."""
    cls = type(conv)
    if cls.forward is not nn.Conv2d.forward or cls._conv_forward is not nn.Conv2d._conv_forward:
        return _measured_trim(conv, name)  # timm's Conv2dSame and its like pad in forward, and say padding=0
    if conv.padding == "same":
        return 0, 0
    rows, columns = (0, 0) if conv.padding == "valid" else conv.padding
    return conv.kernel_size[0] - 1 - 2 * int(rows), conv.kernel_size[1] - 1 - 2 * int(columns)


def _measured_trim(conv: nn.Conv2d, name: str) -> tuple[int, int]:
    """m of a subclass with its own forward, from the sizes that it gives for images without content."""
    sides = range(2 * max(conv.kernel_size), 2 * max(conv.kernel_size) + 2 * max(conv.stride))
    state = {key: tensor.to("meta") for key, tensor in (*conv.named_parameters(), *conv.named_buffers())}
    images = [torch.empty(1, conv.in_channels, n, n, dtype=conv.weight.dtype, device="meta") for n in sides]
    try:
        with torch.no_grad():
            shapes = [tuple(torch.func.functional_call(conv, state, (image,)).shape) for image in images]
    except Exception as error:
        raise ArgumentError(
            f"{name} is a {type(conv).__name__} whose forward could not be tried ({error}): leave it out with where="
        ) from error
    trims = []
    for axis in (0, 1):
        kernel, stride = conv.kernel_size[axis], conv.stride[axis]
        expected = {
            m: [(1, conv.out_channels, math.ceil((n - m) / stride)) for n in sides] for m in range(-4 * kernel, kernel)
        }
        trims += [m for m, e in expected.items() if e == [(*shape[:2], shape[2 + axis]) for shape in shapes]][:1]
    if len(trims) < 2:
        raise ArgumentError(
            f"{name} is a {type(conv).__name__} that maps a side of {sides[0]} to shape {shapes[0]}, of {sides[-1]} to "
            f"{shapes[-1]}: no padding of {_describe(conv)} does; leave it out with where="
        )
    return trims[0], trims[1]


def _heads(channels: int, num_heads: int, position: str) -> tuple[int, str]:
    """The number of heads nearest to `num_heads` that fits, the smaller of two; and the position that fits."""
    if position == "relative" and channels % 2:
        position = "none"  # an odd number has no divisor that leaves two halves
    unit = 2 if position == "relative" else 1
    fitting = [heads for heads in range(1, channels // unit + 1) if channels % (heads * unit) == 0]
    return min(fitting, key=lambda heads: abs(heads - num_heads)), position


def _warn_of_heads(replaced: Named, heads: dict[nn.Conv2d, tuple[int, str]], num_heads: int, position: str) -> None:
    """One warning for each number of channels: a network of fifty such layers has only a few of them."""
    by_channels: dict[int, Named] = {}
    for conv, names in replaced.items():
        if heads[conv] != (num_heads, position):
            by_channels.setdefault(conv.out_channels, {})[conv] = names
    for channels, layers in by_channels.items():
        count, used = heads[next(iter(layers))]
        sentence = f"{_listed(layers)}: {channels} channels "
        if count != num_heads:
            width = "of an even width " if used == "relative" else ""
            sentence += f"do not divide into num_heads ({num_heads}) heads {width}and get {count} heads"
        if used != position:
            sentence += " and " if count != num_heads else ""
            sentence += f'cannot be halved for rows and columns and get position="{used}" in place of "{position}"'
        warnings.warn(sentence, stacklevel=3)


# What the report says


def _replacement(names: list[str], conv: nn.Conv2d, layer: LocalAttention2d | FittedAttention2d) -> Replacement:
    before = _describe(conv) + "".join(f", also {name}" for name in names[1:])
    return Replacement(names[0], before, _describe_attention(layer), _parameters(conv), _parameters(layer))


def _kept(names: list[str], conv: nn.Conv2d, chosen: bool) -> Kept:
    return Kept(names[0], _describe(conv), 'grouped="keep"' if chosen else "not chosen by where")


def _describe(conv: nn.Conv2d) -> str:
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


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _times(pair: tuple[int, ...]) -> str:
    return " x ".join(map(str, pair))


def _once(pair: tuple[int, ...]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else _times(pair)


def _shown(name: str) -> str:
    return name or "the network itself"


def _listed(convolutions: Named, most: int = 6) -> str:
    names = [_shown(names[0]) for names in convolutions.values()]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _both_sides(amounts: tuple[int, ...]) -> list[int]:
    """(rows, columns), each shared between its two sides, in the order of F.pad: left, right, top, bottom."""
    return [part for amount in reversed(amounts) for part in (int(amount / 2), amount - int(amount / 2))]
