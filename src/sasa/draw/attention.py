"""The attention of a network over one image: its weights as numbers, and drawn over the image.

Shapes: N heads, K the kernel size, H x W the layer's feature map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sasa.draw.charts import new_figure, save_figure
from sasa.errors import ArgumentError
from sasa.nn import LocalAttention2d
from sasa.nn.modes import evaluating

QUERY = "#00c2ff"
TALLEST = 5  # layers in a column of the figure; more layers need several columns


def attention_layers(model: nn.Module) -> dict[str, LocalAttention2d]:
    """List the local attention layers of a network by name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LocalAttention2d)}


def choose_layer(model: nn.Module, name: str | None) -> str:
    """Return the full name of a layer; by default of the last one in the first stage, which has the largest map.

    Args:
        model: the network.
        name: with or without ".spatial" at its end.

    Raises:
        ArgumentError: an unknown layer (the message lists all names), or a network without attention.
    """
    layers = list(attention_layers(model))
    if not layers:
        raise ArgumentError("the network has no local attention layer")
    if name is None:
        return [layer for layer in layers if layer.split(".")[0] == layers[0].split(".")[0]][-1]
    found = [layer for layer in layers if name in (layer, layer.removesuffix(".spatial"))]
    if not found:
        raise ArgumentError(f"the network has no attention layer {name!r}; it has {', '.join(layers)}")
    return found[0]


@dataclass(frozen=True)
class LayerInfo:
    """An attention layer: size of its feature map, kernel size, number of heads."""

    name: str
    height: int
    width: int
    kernel_size: int
    heads: int


def describe_layers(model: nn.Module, image: Tensor) -> list[LayerInfo]:
    """Describe all attention layers in order, for an image (C, height, width)."""
    layers = attention_layers(model)
    return [
        LayerInfo(name, map_.shape[2], map_.shape[3], layers[name].kernel_size, layers[name].num_heads)
        for name, map_ in layer_inputs(model, image, list(layers)).items()
    ]


def check_heads(heads: Sequence[int], layer: str, count: int) -> None:
    """Check that a layer with `count` heads has the given ones, counted from 1.

    Raises:
        ArgumentError: a number below 1 or above `count`.
    """
    for head in heads:
        if not 1 <= head <= count:
            there = f"{count} heads, 1 to {count}" if count > 1 else "one head, number 1"
            raise ArgumentError(f"layer {layer} has {there}; there is no head {head}")


@torch.no_grad()
def layer_inputs(model: nn.Module, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Record the inputs (1, C, H, W) of the layers for an image (C, height, width), in evaluation mode."""
    known, inputs = attention_layers(model), {}
    names: dict[nn.Module, str] = {known[name]: name for name in layers}

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[names[module]] = args[0]

    handles = [module.register_forward_pre_hook(record) for module in names]
    try:
        with evaluating(model):
            model(image[None])
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def layer_weights(model: nn.Module, image: Tensor, layer: str) -> Tensor:
    """Compute softmax_ab of Eq. 3 in one layer, (N, K, K, H, W), for an image (C, height, width), in evaluation mode.

    Entry [n, u, v, i, j] is the weight that pixel (i, j) of the map gives to (i + u - K // 2, j + v - K // 2).
    """
    inputs = layer_inputs(model, image, [layer])
    return attention_layers(model)[layer].attention_weights(inputs[layer])[0]


def layer_windows(
    model: nn.Module, image: Tensor, layers: Sequence[str], place: tuple[float, float]
) -> dict[str, tuple[Tensor, tuple[int, int], tuple[int, int]]]:
    """Compute for each layer the weights (N, K, K) of one pixel, its (row, column) on the map, and the map's size.

    Args:
        model: in any mode; it runs in evaluation mode.
        image: (C, height, width).
        layers: names.
        place: of the pixel, down and across, as fractions 0 to 1 of the image's sides.
    """
    found = {}
    known = attention_layers(model)
    for name, map_ in layer_inputs(model, image, layers).items():
        height, width = map_.shape[2:]
        row, column = int(place[0] * height), int(place[1] * width)
        # A clone, so that the weights of the other pixels are freed.
        weights_NKK = known[name].attention_weights(map_)[0, :, :, :, row, column].clone()
        found[name] = weights_NKK, (row, column), (height, width)
    return found


def place_window(weights_KK: Tensor, row: int, column: int, height: int, width: int) -> tuple[Tensor, float]:
    """Place a window's weights on the (H, W) map; return the map, and the share of the weights beyond its border."""
    half = weights_KK.shape[0] // 2
    canvas = torch.zeros(height + 2 * half, width + 2 * half)
    canvas[row : row + 2 * half + 1, column : column + 2 * half + 1] = weights_KK.cpu()
    inside = canvas[half : half + height, half : half + width]
    return inside, float(weights_KK.sum()) - float(inside.sum())


def busiest_pixels(image: Tensor, height: int, width: int, count: int, apart: int) -> list[tuple[int, int]]:
    """Choose the pixels of an H x W map over which the image has the largest variance.

    Args:
        image: (C, image height, image width).
        height, width: of the map.
        count: of pixels.
        apart: minimum distance between them.

    Returns:
        (row, column) of each.
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


@dataclass(frozen=True)
class LayerView:
    """The attention of one pixel of a layer's map.

    Args:
        name: of the row: the layer, or the pixel.
        windows: (title, weights (K, K)) of each panel: a head, or the mean of all.
        pixel: (row, column) on the map.
        size: (H, W) of the map.
    """

    name: str
    windows: list[tuple[str, Tensor]]
    pixel: tuple[int, int]
    size: tuple[int, int]


def draw_attention(
    image: Any,
    weights_NKKHW: Tensor,
    pixels: Sequence[tuple[int, int]],
    path: Path,
    title: str,
    heads: Sequence[int] | None = None,
) -> None:
    """Draw a row for each pixel: the image with pixel and window marked, then the weights of each head.

    Args:
        image: the square PIL image, as the network sees it.
        weights_NKKHW: of one layer (`layer_weights`).
        pixels: (row, column) on the layer's map.
        path: the PNG.
        title: of the figure.
        heads: to draw, counted from 1; by default all.
    """
    count, _, _, height, width = weights_NKKHW.shape
    shown = list(heads or range(1, count + 1))
    figure = new_figure(1.6 * (len(shown) + 1) + 0.3, 1.75 * len(pixels) + 0.5)
    grid = figure.subplots(len(pixels), len(shown) + 1, squeeze=False)
    for line, (row, column) in zip(grid, pixels, strict=True):
        windows = [(f"head {head}", weights_NKKHW[head - 1, :, :, row, column]) for head in shown]
        _draw_row(line, image, LayerView(f"pixel {row}, {column}", windows, (row, column), (height, width)))
    figure.suptitle(f"{title}\nsquares: the pixel and its window", fontsize=9)
    save_figure(figure, path)


def draw_layers(image: Any, views: Sequence[LayerView], path: Path, title: str) -> None:
    """Draw a row for each layer: the image with pixel and window marked, then the weights.

    Args:
        image: the square PIL image, as the network sees it.
        views: one for each layer, all with the same number of windows.
        path: the PNG.
        title: of the figure.
    """
    columns = -(-len(views) // TALLEST)
    rows = -(-len(views) // columns)
    across = 1 + len(views[0].windows)
    figure = new_figure(columns * (1.55 * across + 0.6), 1.75 * rows + 0.6)
    parts = np.ravel(figure.subfigures(1, columns))
    for column, part in enumerate(parts):
        grid = part.subplots(rows, across, squeeze=False)
        for axes in grid[len(views) - column * rows :].ravel():  # the last column may be shorter
            axes.axis("off")
        for line, view in zip(grid, views[column * rows : (column + 1) * rows], strict=False):
            _draw_row(line, image, view)
            line[0].set_title("{} x {} map, pixel {}, {}".format(*view.size, *view.pixel), fontsize=7)
    figure.suptitle(f"{title}\nsquares: the pixel and its window", fontsize=9)
    save_figure(figure, path)


def _draw_row(line: Any, image: Any, view: LayerView) -> None:
    """Draw the image with the pixel and its window outlined, and then each window, in a row of axes."""
    line[0].imshow(np.asarray(image), cmap="gray", extent=_extent(view.size), vmin=0, vmax=255)
    _mark(line[0], view.pixel, view.windows[0][1].shape[0], view.size)
    line[0].set_ylabel(view.name, fontsize=8)
    for axes, (name, window) in zip(line[1:], view.windows, strict=True):
        _draw_window(axes, image, window, view.pixel, view.size, name)


def _draw_window(
    axes: Any, image: Any, window_KK: Tensor, pixel: tuple[int, int], size: tuple[int, int], name: str
) -> None:
    """Draw the weights of one window over the image in gray."""
    gray = np.asarray(image.convert("L")).astype(float)
    placed, beyond = place_window(window_KK, *pixel, *size)
    axes.imshow(gray, cmap="gray", extent=_extent(size), vmin=gray.min() - 80, vmax=gray.max() + 80)
    heat = placed.numpy() / max(float(placed.max()), 1e-9)
    axes.imshow(heat, cmap="inferno", extent=_extent(size), alpha=np.clip(0.15 + heat, 0, 0.9) * (heat > 0))
    label = f"{name}, max {float(window_KK.max()):.2f}"
    axes.set_title(label + (f"\nbeyond border {beyond:.0%}" if beyond >= 0.005 else ""), fontsize=7)
    _mark(axes, pixel, window_KK.shape[0], size)


def _extent(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the axes' extent: pixel n of the map covers [n - 0.5, n + 0.5]; the image is stretched to match."""
    return -0.5, size[1] - 0.5, size[0] - 0.5, -0.5


def _mark(axes: Any, pixel: tuple[int, int], kernel_size: int, size: tuple[int, int]) -> None:
    """Outline the pixel and its window."""
    from matplotlib.patches import Rectangle

    for side, line_width in ((1, 1.6), (kernel_size, 0.9)):
        corner = (pixel[1] - side / 2, pixel[0] - side / 2)
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=QUERY, linewidth=line_width))
    extent = _extent(size)
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
