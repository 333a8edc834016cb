"""Attention over an image, drawn: one layer head by head for some pixels, or many layers for one pixel.

Shapes: N heads, K the kernel size, H x W the layer's map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sasa.draw.attention_maps import place_window
from sasa.draw.charts import new_figure, save_figure

QUERY = "#00c2ff"
TALLEST = 5  # rows of layers above each other; more stand in blocks side by side


@dataclass(frozen=True)
class LayerView:
    """What one layer looks at from one pixel of its map.

    Args:
        name: of the layer.
        windows: (title, weights (K, K)) for each thing to draw: a head, or the mean of all.
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
    """A row for each chosen pixel: the image with pixel and window marked, then what each head looks at.

    Args:
        image: the square PIL image that the network saw.
        weights_NKKHW: of one layer (`layer_weights`).
        pixels: places (row, column) on the layer's map.
        path: the PNG.
        title: of the whole figure.
        heads: which to draw, counted from 1; by default all.
    """
    count, kernel_size, _, height, width = weights_NKKHW.shape
    shown = list(heads or range(1, count + 1))
    figure = new_figure(1.6 * (len(shown) + 1) + 0.3, 1.75 * len(pixels) + 0.5)
    grid = figure.subplots(len(pixels), len(shown) + 1, squeeze=False)
    for line, (row, column) in zip(grid, pixels, strict=True):
        _draw_place(line[0], image, (row, column), kernel_size, (height, width))
        line[0].set_ylabel(f"pixel {row}, {column}", fontsize=8)
        for axes, head in zip(line[1:], shown, strict=True):
            window = weights_NKKHW[head - 1, :, :, row, column]
            _draw_window(axes, image, window, (row, column), (height, width), f"head {head}")
    figure.suptitle(f"{title}\nsquares: the pixel, and its window", fontsize=9)
    save_figure(figure, path)


def draw_layers(image: Any, views: Sequence[LayerView], path: Path, title: str) -> None:
    """A row for each layer: the image with pixel and window marked, then what the layer looks at from there.

    Args:
        image: the square PIL image that the network saw.
        views: one a layer, each with the same number of windows.
        path: the PNG.
        title: of the whole figure.
    """
    blocks = -(-len(views) // TALLEST)
    rows = -(-len(views) // blocks)
    across = 1 + len(views[0].windows)
    figure = new_figure(blocks * (1.55 * across + 0.6), 1.75 * rows + 0.6)
    parts = np.ravel(figure.subfigures(1, blocks))
    for block, part in enumerate(parts):
        grid = part.subplots(rows, across, squeeze=False)
        for axes in grid[len(views) - block * rows :].ravel():  # the last block may be shorter
            axes.axis("off")
        for line, view in zip(grid, views[block * rows : (block + 1) * rows], strict=False):
            kernel_size = view.windows[0][1].shape[0]
            _draw_place(line[0], image, view.pixel, kernel_size, view.size)
            line[0].set_ylabel(view.name, fontsize=8)
            line[0].set_title("{} x {} map, pixel {}, {}".format(*view.size, *view.pixel), fontsize=7)
            for axes, (name, window) in zip(line[1:], view.windows, strict=True):
                _draw_window(axes, image, window, view.pixel, view.size, name)
    figure.suptitle(f"{title}\nsquares: the pixel, and its window", fontsize=9)
    save_figure(figure, path)


def _draw_place(axes: Any, image: Any, pixel: tuple[int, int], kernel_size: int, size: tuple[int, int]) -> None:
    """The image with the pixel and its window outlined."""
    axes.imshow(np.asarray(image), cmap="gray", extent=_extent(size), vmin=0, vmax=255)
    _mark(axes, pixel, kernel_size, size)


def _draw_window(
    axes: Any, image: Any, window_KK: Tensor, pixel: tuple[int, int], size: tuple[int, int], name: str
) -> None:
    """The weights of one window, laid over the image in gray."""
    gray = np.asarray(image.convert("L")).astype(float)
    placed, beyond = place_window(window_KK, *pixel, *size)
    axes.imshow(gray, cmap="gray", extent=_extent(size), vmin=gray.min() - 80, vmax=gray.max() + 80)
    heat = placed.numpy() / max(float(placed.max()), 1e-9)
    axes.imshow(heat, cmap="inferno", extent=_extent(size), alpha=np.clip(0.15 + heat, 0, 0.9) * (heat > 0))
    label = f"{name}, max {float(window_KK.max()):.2f}"
    axes.set_title(label + (f"\nbeyond border {beyond:.0%}" if beyond >= 0.005 else ""), fontsize=7)
    _mark(axes, pixel, window_KK.shape[0], size)


def _extent(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Pixel n of the map covers [n - 0.5, n + 0.5] on its axis; the image is stretched over the same extent."""
    return -0.5, size[1] - 0.5, size[0] - 0.5, -0.5


def _mark(axes: Any, pixel: tuple[int, int], kernel_size: int, size: tuple[int, int]) -> None:
    """Outline the query's pixel and its window."""
    from matplotlib.patches import Rectangle

    for side, line_width in ((1, 1.6), (kernel_size, 0.9)):
        corner = (pixel[1] - side / 2, pixel[0] - side / 2)
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=QUERY, linewidth=line_width))
    extent = _extent(size)
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
