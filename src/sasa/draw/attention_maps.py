"""Where a network looks: its attention layers, and the weights of one of them for one image, as numbers.

Shapes: N heads, K the kernel size, H x W the layer's map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sasa.errors import ArgumentError
from sasa.nn import LocalAttention2d


def attention_layers(model: nn.Module) -> dict[str, LocalAttention2d]:
    """The local attention layers of a network by name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LocalAttention2d)}


def choose_layer(model: nn.Module, name: str | None) -> str:
    """The layer of that name, or of the only name that contains it; by default the last one of the finest group.

    Raises:
        ArgumentError: no such layer (all names are listed), or no attention in the network at all.
    """
    layers = list(attention_layers(model))
    if not layers:
        raise ArgumentError("the network has no local attention layer to look at")
    if name is None:
        return [layer for layer in layers if layer.split(".")[0] == layers[0].split(".")[0]][-1]
    found = [layer for layer in layers if name in (layer, layer.removesuffix(".spatial"))]
    if not found:
        raise ArgumentError(f"the network has no attention layer {name!r}; it has {', '.join(layers)}")
    return found[0]


@dataclass(frozen=True)
class LayerInfo:
    """An attention layer as it meets an image: the size of its map, side of its window, number of heads."""

    name: str
    height: int
    width: int
    kernel_size: int
    heads: int


def describe_layers(model: nn.Module, image: Tensor) -> list[LayerInfo]:
    """All attention layers in order, with the sizes that their maps have for an image (C, height, width)."""
    layers = attention_layers(model)
    return [
        LayerInfo(name, map_.shape[2], map_.shape[3], layers[name].kernel_size, layers[name].num_heads)
        for name, map_ in layer_inputs(model, image, list(layers)).items()
    ]


def check_heads(heads: Sequence[int], layer: str, count: int) -> None:
    """Refuse heads that a layer lacks; they are counted from 1.

    Raises:
        ArgumentError: says how many there are.
    """
    for head in heads:
        if not 1 <= head <= count:
            there = f"{count} heads, 1 to {count}" if count > 1 else "one head, number 1"
            raise ArgumentError(f"layer {layer} has {there}; there is no head {head}")


@torch.no_grad()
def layer_inputs(model: nn.Module, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """What goes into the layers, (1, C, H, W) each, when the model in eval mode sees an image (C, height, width)."""
    known, inputs = attention_layers(model), {}
    names: dict[nn.Module, str] = {known[name]: name for name in layers}

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[names[module]] = args[0]

    handles = [module.register_forward_pre_hook(look) for module in names]
    training = model.training
    try:
        model.eval()(image[None])
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return inputs


def layer_weights(model: nn.Module, image: Tensor, layer: str) -> Tensor:
    """softmax_ab of Eq. 3 in one layer, (N, K, K, H, W), for one image (C, height, width) in eval mode.

    Entry [n, u, v, i, j] is what pixel (i, j) of the map takes from (i + u - K // 2, j + v - K // 2).
    """
    inputs = layer_inputs(model, image, [layer])
    return attention_layers(model)[layer].attention_weights(inputs[layer])[0]


def layer_windows(
    model: nn.Module, image: Tensor, layers: Sequence[str], place: tuple[float, float]
) -> dict[str, tuple[Tensor, tuple[int, int], tuple[int, int]]]:
    """For each layer: weights (N, K, K) of one pixel, the pixel (row, column) on the layer's map, and the map's size.

    Args:
        model: in any mode; it is run in eval mode.
        image: (C, height, width).
        layers: names.
        place: of the pixel, down and across, as fractions 0 to 1 of the image's sides.
    """
    found = {}
    known = attention_layers(model)
    for name, map_ in layer_inputs(model, image, layers).items():
        height, width = map_.shape[2:]
        row, column = int(place[0] * height), int(place[1] * width)
        weights_NKK = known[name].attention_weights(map_)[0, :, :, :, row, column].clone()  # the rest is let go
        found[name] = weights_NKK, (row, column), (height, width)
    return found


def place_window(weights_KK: Tensor, row: int, column: int, height: int, width: int) -> tuple[Tensor, float]:
    """A window's weights at their places on the (H, W) map, and the share that went beyond its border."""
    half = weights_KK.shape[0] // 2
    canvas = torch.zeros(height + 2 * half, width + 2 * half)
    canvas[row : row + 2 * half + 1, column : column + 2 * half + 1] = weights_KK.cpu()
    inside = canvas[half : half + height, half : half + width]
    return inside, float(weights_KK.sum()) - float(inside.sum())


def busiest_pixels(image: Tensor, height: int, width: int, count: int, apart: int) -> list[tuple[int, int]]:
    """Places (row, column) of an H x W map over the liveliest parts of the image, at least `apart` from each other.

    Args:
        image: (C, image height, image width).
    """
    gray = image.mean(0, keepdim=True)[None]
    mean = nn.functional.adaptive_avg_pool2d(gray, (height, width))
    variance = nn.functional.adaptive_avg_pool2d(gray**2, (height, width)) - mean**2
    order = variance.flatten().argsort(descending=True, stable=True).tolist()
    chosen: list[tuple[int, int]] = []
    for place in order:
        row, column = divmod(place, width)
        if all(max(abs(row - r), abs(column - c)) >= apart for r, c in chosen):
            chosen.append((row, column))
        if len(chosen) == count:
            break
    return chosen
