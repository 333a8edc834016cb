"""Data of one image for the page: predictions of the network, and weights of its attention layers in bytes.

Shapes: N heads, K the kernel size, H x W the layer's map.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sasa.draw.attention import attention_layers, choose_layer
from sasa.errors import SasaError
from sasa.nn import LocalAttention2d
from sasa.tasks.trained import Answer, NamedImage, TrainedNetwork


@dataclass(frozen=True)
class LayerCall:
    """One call of an attention layer on one image. A detector's head is called once for each level of the pyramid.

    Args:
        name: of the module, shortened: without "backbone.body." at its start and ".spatial" at its end.
        heads, kernel_size: N and K.
        size: (H, W).
        packed: see `pack`.
    """

    name: str
    heads: int
    kernel_size: int
    size: tuple[int, int]
    packed: bytes

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.heads * self.kernel_size**2 * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Explored:
    """An image with its answers and its attention weights.

    Args:
        name: of the file, without its directory, since pages are shared with others.
        image: the image shown on the page.
        truth: the true class, if known.
        answers: best first.
        layers: in the order of their calls.
        cover: (down, across): the fractions of a map that the image covers; the rest is padding.
    """

    name: str
    image: Image.Image
    truth: str | None
    answers: list[Answer]
    layers: list[LayerCall]
    cover: tuple[float, float]


def pack(weights_NKKHW: Tensor) -> bytes:
    """Quantise attention weights to bytes: each window has its own scale, its largest weight.

    The result is compressed (zlib): the scales as little-endian uint16 (N, H, W), in 1 / 65535, rounded up; then the
    windows as uint8 (N, H, W, K, K), in 1 / 255 of the scale. So a weight is wrong by at most 1 / 510 of the largest
    weight of its window.
    """
    windows = weights_NKKHW.permute(0, 3, 4, 1, 2).double().cpu().numpy()
    scales = np.ceil(windows.max((3, 4)).clip(0, 1) * 65535)
    values = np.rint(windows * (255 * 65535) / scales[..., None, None])
    return zlib.compress(scales.astype("<u2").tobytes() + values.clip(0, 255).astype(np.uint8).tobytes(), 9)


def explore(model: TrainedNetwork, named: NamedImage, layers: Sequence[str] = (), score: float = 0.0) -> Explored:
    """Run the network on an image once; keep the answers and the weights of its attention layers.

    Args:
        model: a trained network.
        named: the image.
        layers: names, as `sasa attend --list` prints them; by default all.
        score: lowest score of a detector's box.

    Raises:
        SasaError: an unknown layer, a network without attention, or weights that are not finite.
    """
    chosen = [choose_layer(model.network, layer) for layer in layers or [None]]  # None: at least one, or an error
    names = list(dict.fromkeys(chosen)) if layers else list(attention_layers(model.network))
    with _record(model.network, names) as (inputs, found):
        answers = model.best(named.image, score)
    (height, width), (seen_height, seen_width) = inputs[0], model.seen_size(named.image)
    cover = (seen_height / height, seen_width / width)
    return Explored(PurePath(named.name).name, model.shown(named.image), named.truth, answers, found, cover)


@contextmanager
def _record(network: nn.Module, names: Sequence[str]) -> Iterator[tuple[list[tuple[int, int]], list[LayerCall]]]:
    """Record the (height, width) of the network's inputs, and every call of the layers, until the context ends."""
    inputs: list[tuple[int, int]] = []
    found: list[LayerCall] = []

    def record_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append((args[0].shape[2], args[0].shape[3]))

    def record_layer(name: str, module: LocalAttention2d, args: tuple[Tensor, ...]) -> None:
        found.append(_layer(name, module, args[0]))  # packed at once: the weights of all layers may not fit into memory

    known = attention_layers(network)
    handles = [network.register_forward_pre_hook(record_input)]
    handles += [known[name].register_forward_pre_hook(partial(record_layer, name)) for name in names]
    try:
        yield inputs, found
    finally:
        for handle in handles:
            handle.remove()


def _layer(name: str, module: LocalAttention2d, map_BCHW: Tensor) -> LayerCall:
    weights_NKKHW = module.attention_weights(map_BCHW)[0]
    if not torch.isfinite(weights_NKKHW).all():
        raise SasaError(f"layer {name} gives attention weights that are not finite numbers")
    label = name.removeprefix("backbone.body.").removesuffix(".spatial")
    size = (map_BCHW.shape[2], map_BCHW.shape[3])
    return LayerCall(label, module.num_heads, module.kernel_size, size, pack(weights_NKKHW))
