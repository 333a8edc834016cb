"""`convert`: a copy of any network with local attention for every spatial convolution (Section 3.1 of the paper)."""

import contextlib
import copy
import fnmatch
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from sasa.errors import ArgumentError
from sasa.nn.attention import LocalAttention2d
from sasa.nn.conversion import Conversion, Kept, Replacement, count_parameters, describe, display_name
from sasa.nn.fitted import FittedAttention2d
from sasa.nn.position import POSITIONS, find_position
from sasa.ops.checks import check_kernel_size, check_padding, check_positive

GROUPED = ("refuse", "replace", "keep")
Named = dict[nn.Conv2d, list[str]]  # convolutions, each with all its names
Where = Callable[[str, nn.Conv2d], bool] | str | Sequence[str] | None


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
    """Return a copy of `model` with local attention for every convolution with a kernel larger than 1, Section 3.1.

    Each nn.Conv2d (and subclass) with a kernel larger than 1 in any dimension becomes a `LocalAttention2d` of the
    same channels, output size, bias, device, dtype and training mode: alone where the convolution is "same"-padded
    with equal strides, else inside a `FittedAttention2d`. A convolution used in two places stays one layer. The new
    layers are trainable and freshly initialised, except that a bias becomes the bias of the values. Everything else is
    copied with its weights. The original is not changed.

    Args:
        model: any network, or a convolution.
        kernel_size: side of the attention's window, odd; independent of the convolution's kernel size.
        num_heads: number of heads. A layer whose channels do not divide into that many heads (of an even width, with
            relative positions) gets the nearest number that fits, the smaller of two; a layer with an odd number of
            channels gets `position="none"` in place of "relative". A warning names them; others name convolutions
            whose padding mode, hooks, parametrizations or submodules are lost, and functions stored in the network
            that still call the original's modules.
        where: which convolutions: a function of (name, convolution), or one or more shell patterns of module
            names ("layer4.*"; * also matches dots). None: all.
        grouped: convolutions with groups > 1, depthwise ones too: "refuse", "replace" (by full attention, which
            mixes all channels) or "keep".
        padding: as in `LocalAttention2d`.
        position: as in `LocalAttention2d`.

    Returns:
        The copy. Its attribute `conversion`, a `Conversion`, lists what was replaced and what was kept.

    Raises:
        ArgumentError: (a ValueError) invalid options; nothing to replace; a `where` that matches nothing;
            a chosen convolution that is grouped (with "refuse"), dilated, not yet initialised, or of a subclass
            whose forward is not that of a convolution with some padding.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, stride=2, padding=1), torch.nn.ReLU())
    >>> attentive = sasa.convert(network)
    >>> attentive(torch.randn(2, 3, 15, 20)).shape
    torch.Size([2, 32, 8, 10])
    >>> attentive.conversion.replacements[0].after
    'LocalAttention2d 3 -> 32, 7 x 7, stride 2, 8 heads'
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a module, got {type(model).__name__}")
    _check_options(kernel_size, num_heads, grouped, padding, position)
    found = _spatial_convolutions(model)
    chosen = _chosen(found, where)
    # In the network's order, so that a seed gives the same layers each time.
    replaced = {c: names for c, names in found.items() if c in chosen and (c.groups == 1 or grouped != "keep")}
    _check_convertible(replaced, chosen, grouped)

    heads = {conv: _heads(conv.out_channels, num_heads, position) for conv in replaced}
    layers = {
        conv: _attention(conv, display_name(names[0]), kernel_size, *heads[conv], padding=padding)
        for conv, names in replaced.items()
    }
    # deepcopy's memo maps each convolution to its replacement, so layers used in several places stay shared.
    memo: dict[int, Any] = {id(conv): layer for conv, layer in layers.items()}
    converted = copy.deepcopy(model, memo)
    present = set(converted.modules())  # a convolution inside a replaced one is gone
    replaced = {conv: names for conv, names in replaced.items() if layers[conv] in present}
    converted.conversion = Conversion(  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        tuple(Replacement.of(names, conv, layers[conv]) for conv, names in replaced.items()),
        tuple(
            Kept(names[0], describe(conv), 'grouped="keep"' if conv in chosen else "not chosen by where")
            for conv, names in found.items()
            if conv not in layers and memo.get(id(conv)) in present
        ),
        count_parameters(model),
        count_parameters(converted),
    )
    _warn_of_heads(replaced, heads, num_heads, position)
    _warn_of_lost(replaced, padding)
    _warn_of_references(converted, set(map(id, model.modules())))
    return converted


def _check_options(kernel_size: int, num_heads: int, grouped: str, padding: str, position: str) -> None:
    check_kernel_size(kernel_size)
    check_padding(padding)
    find_position(position)
    check_positive(num_heads, "num_heads")
    if grouped not in GROUPED:
        raise ArgumentError(f"grouped must be one of {', '.join(GROUPED)}; got {grouped!r}")


def _spatial_convolutions(model: nn.Module) -> Named:
    """Convolutions with a kernel larger than 1, each with all its names, in the order of the network's modules."""
    found: Named = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            found.setdefault(module, []).append(name)
    if not found:
        raise ArgumentError(f"{type(model).__name__} has no nn.Conv2d with a kernel larger than 1: nothing to convert")
    return found


def _chosen(found: Named, where: Where) -> Collection[nn.Conv2d]:
    """Convolutions that `where` chooses by any of their names."""
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
        if not matched:  # even if other patterns match: it is probably misspelt
            raise ArgumentError(f"where={pattern!r} matches none of the {len(found)} convolutions: {_listed(found)}")
        chosen |= matched
    return chosen


def _check_convertible(replaced: Named, chosen: Collection[nn.Conv2d], grouped: str) -> None:
    if not replaced:
        raise ArgumentError(
            f'grouped="keep" leaves nothing to convert: all {len(chosen)} chosen convolutions have groups > 1'
        )
    lazy: Named = {conv: names for conv, names in replaced.items() if isinstance(conv, nn.LazyConv2d)}
    if lazy:
        raise ArgumentError(
            f"run the network once before converting it, these layers are not yet initialised: {_listed(lazy)}"
        )
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
                f"{display_name(names[0])} has dilation {conv.dilation} with kernel_size {conv.kernel_size}: attention "
                "has no dilated windows; leave it out with where= (a function of name and convolution)"
            )


def _attention(
    conv: nn.Conv2d, name: str, kernel_size: int, num_heads: int, position: str, *, padding: str
) -> LocalAttention2d | FittedAttention2d:
    """The layer in place of `conv`: same channels, output size, bias, device, dtype and mode.

    A bias becomes the bias of the values. The output is a mean of values, so the bias is added to it as before (less of
    it where a window reaches beyond the map, whose values are 0 with padding="zeros"); a detector keeps the prior
    probability that its first loss depends on.
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
    """m = k - 1 - p of rows and columns, see sasa.nn.fitted."""
    cls = type(conv)
    if cls.forward is not nn.Conv2d.forward or cls._conv_forward is not nn.Conv2d._conv_forward:
        return _measured_trim(conv, name)  # such as timm's Conv2dSame, which pads in forward and has padding=0
    if conv.padding == "same":
        return 0, 0
    rows, columns = (0, 0) if conv.padding == "valid" else conv.padding
    return conv.kernel_size[0] - 1 - 2 * int(rows), conv.kernel_size[1] - 1 - 2 * int(columns)


def _measured_trim(conv: nn.Conv2d, name: str) -> tuple[int, int]:
    """m of a subclass with its own forward, from its output sizes for meta tensors."""
    sides = range(2 * max(conv.kernel_size), 2 * max(conv.kernel_size) + 2 * max(conv.stride))
    state = {key: tensor.to("meta") for key, tensor in (*conv.named_parameters(), *conv.named_buffers())}
    images = [torch.empty(1, conv.in_channels, n, n, dtype=conv.weight.dtype, device="meta") for n in sides]
    try:
        with torch.no_grad():
            shapes = [tuple(torch.func.functional_call(conv, state, (image,)).shape) for image in images]
    except Exception as error:
        raise ArgumentError(
            f"{name} is a {type(conv).__name__} whose forward fails on meta tensors ({error}): leave it out with where="
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
            f"{shapes[-1]}: {describe(conv)} does not do so with any padding; leave it out with where="
        )
    return trims[0], trims[1]


def _heads(channels: int, num_heads: int, position: str) -> tuple[int, str]:
    """The number of heads nearest to `num_heads` that fits, the smaller of two, and the position that fits."""
    if POSITIONS[position].halves_heads and channels % 2:
        position = "none"  # no number of heads leaves two halves
    unit = 2 if POSITIONS[position].halves_heads else 1
    fitting = [heads for heads in range(1, channels // unit + 1) if channels % (heads * unit) == 0]
    return min(fitting, key=lambda heads: abs(heads - num_heads)), position


def _warn_of_heads(replaced: Named, heads: dict[nn.Conv2d, tuple[int, str]], num_heads: int, position: str) -> None:
    """Warn once for each number of channels: a network of fifty such layers has only a few of them."""
    by_channels: dict[int, Named] = {}
    for conv, names in replaced.items():
        if heads[conv] != (num_heads, position):
            by_channels.setdefault(conv.out_channels, {})[conv] = names
    for channels, layers in by_channels.items():
        count, used = heads[next(iter(layers))]
        sentence = f"{_listed(layers)}: {channels} channels "
        if count != num_heads:
            width = "of an even width " if POSITIONS[used].halves_heads else ""
            sentence += f"do not divide into num_heads ({num_heads}) heads {width}and get {count} heads"
        if used != position:
            sentence += " and " if count != num_heads else ""
            sentence += f'cannot be halved for rows and columns and get position="{used}" in place of "{position}"'
        warnings.warn(sentence, stacklevel=3)


def _warn_of_lost(replaced: Named, padding: str) -> None:
    """Warn of what the convolutions had and the new layers do not have."""
    lost: dict[str, Named] = {}
    for conv, names in replaced.items():
        for what in _extras(conv):
            lost.setdefault(what, {})[conv] = names
    for what, layers in lost.items():
        instead = f': the attention has padding="{padding}"' if what.startswith("padding_mode") else ""
        warnings.warn(f"{_listed(layers)}: {what} is not carried over{instead}", stacklevel=3)


def _extras(conv: nn.Conv2d) -> list[str]:
    """What a convolution does besides convolving with zero padding."""
    extras = []
    if conv.padding_mode != "zeros":
        extras.append(f'padding_mode="{conv.padding_mode}"')
    if parametrize.is_parametrized(conv):
        extras.append("the parametrization of the weights")
    if any((conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks)):
        extras.append("a hook")  # spectral_norm and pruning may be hooks, too
    if "forward" in conv.__dict__:
        extras.append("the replaced forward")
    if parts := [name for name, _ in conv.named_children() if name != "parametrizations"]:
        extras.append(f"what its forward does with its modules ({', '.join(parts)})")  # a norm, for instance
    return extras


def _warn_of_references(converted: nn.Module, originals: set[int]) -> None:
    """Warn of functions in the copy that call modules of the original: deepcopy does not copy what they refer to."""
    for name, module in converted.named_modules():
        for attribute, value in vars(module).items():
            functions = value.values() if isinstance(value, dict) else [value]  # hooks are in dictionaries
            if any(originals & _references(function) for function in functions):
                warnings.warn(
                    f"{display_name(name)}: the function in {attribute} refers to modules of the original network, and "
                    "calls them in the copy too; make it a method, or set it again",
                    stacklevel=3,
                )


def _references(function: object) -> set[int]:
    """Identities of the objects that a function holds, and of those whose methods it holds."""
    if not isinstance(function, FunctionType):
        return set()
    held = list(function.__defaults__ or ())
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            held.append(cell.cell_contents)
    return {id(item.__self__ if isinstance(item, MethodType) else item) for item in held}


def _listed(convolutions: Named) -> str:
    names = [display_name(names[0]) for names in convolutions.values()]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
