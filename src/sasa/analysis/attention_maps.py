"""Where a network looks: the attention weights of one layer for one picture, as numbers.

Shapes: N heads, K the kernel size, H x W the layer's map.
"""

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


@torch.no_grad()
def layer_weights(model: nn.Module, image: Tensor, layer: str) -> Tensor:
    """softmax_ab of Eq. 3 in one layer, (N, K, K, H, W), for one picture (C, height, width) in eval mode.

    Entry [n, u, v, i, j] is what pixel (i, j) of the map takes from (i + u - K // 2, j + v - K // 2).
    """
    attention = attention_layers(model)[layer]
    inputs: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    training = model.training
    try:
        model.eval()(image[None])
    finally:
        handle.remove()
        model.train(training)
    return attention.attention_weights(inputs[0])[0]


def place_window(weights_KK: Tensor, row: int, column: int, height: int, width: int) -> tuple[Tensor, float]:
    """A window's weights at their places on the (H, W) map, and the share that went beyond its border."""
    half = weights_KK.shape[0] // 2
    canvas = torch.zeros(height + 2 * half, width + 2 * half)
    canvas[row : row + 2 * half + 1, column : column + 2 * half + 1] = weights_KK.cpu()
    inside = canvas[half : half + height, half : half + width]
    return inside, float(weights_KK.sum()) - float(inside.sum())


def busiest_pixels(image: Tensor, height: int, width: int, count: int, apart: int) -> list[tuple[int, int]]:
    """Places (row, column) of an H x W map over the liveliest parts of the picture, at least `apart` from each other.

    Args:
        image: (C, picture height, picture width).
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
