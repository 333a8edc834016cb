"""A trained network with what belongs to it: class names and preprocessing. Predicts images and shows attention."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sasa.data.classification.transforms import Preprocessing
from sasa.data.detection.transforms import DetectionPreprocessing
from sasa.data.images import read_image
from sasa.draw.attention import (
    LayerInfo,
    LayerView,
    attention_layers,
    busiest_pixels,
    check_heads,
    choose_layer,
    describe_layers,
    draw_attention,
    draw_layers,
    layer_weights,
    layer_windows,
)
from sasa.errors import SasaError
from sasa.models import ResNet
from sasa.models.create import load_pretrained
from sasa.models.hub import locate, on_hub

BATCH = 32  # images that go through the network together


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image: class names and their softmax, best first."""

    name: str
    labels: list[str]
    shares: list[float]


class Predictor:
    """A network of a run's folder, or of any directory that `save_pretrained` wrote with labels and preprocessing."""

    def __init__(self, network: ResNet, labels: list[str], preprocessing: Preprocessing) -> None:
        self.network, self.labels, self.preprocessing = network.eval(), labels, preprocessing
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> "Predictor":
        """Read weights, labels and preprocessing.

        Args:
            name: a directory, or hf:OWNER/NAME.
            device: see `choose_device`.

        Raises:
            SasaError: not such a directory, or one whose weights carry no labels or preprocessing; no such device.
        """
        place = choose_device(device)
        other = "holds a detector: use sasa detect eval or sasa detect predict"
        network, labels, preprocessing = load_trained(name, ResNet, other, preprocessing_from)
        return cls(network.to(place), labels, preprocessing)

    def predict(self, images: Iterable[tuple[str, Image.Image]], top: int = 5) -> list[Prediction]:
        """The `top` best classes of each (name, image)."""
        return [prediction for prediction, _ in self.stream(images, top)]

    def stream(
        self,
        images: Iterable[tuple[str, Image.Image]],
        top: int = 5,
        keep: Callable[[Image.Image], Any] = lambda image: None,
    ) -> Iterator[tuple[Prediction, Any]]:
        """The `top` best classes of each (name, image), in batches, as they come: no more than one is held whole.

        Args:
            images: read one by one, when their turn comes.
            top: classes of each.
            keep: what to keep of an image until it is handed back beside its prediction, such as a small copy.
        """
        ready = ((name, self.preprocessing.evaluation(image), keep(image)) for name, image in images)
        while batch := list(islice(ready, BATCH)):
            names, tensors, kept = zip(*batch, strict=True)
            yield from zip(self._answers(names, torch.stack(tensors), top), kept, strict=True)

    @torch.no_grad()
    def _answers(self, names: Sequence[str], images_BCHW: torch.Tensor, top: int) -> list[Prediction]:
        logits = self.network(images_BCHW.to(self.device)).float()
        shares, places = logits.softmax(1).topk(min(top, len(self.labels)))
        rows = zip(names, places.tolist(), shares.tolist(), strict=True)
        return [Prediction(name, [self.labels[place] for place in best], values) for name, best, values in rows]

    def read(self, path: Path) -> Image.Image:
        """An image file in the network's channels."""
        return read_image(path, channels=self.preprocessing.channels)

    def draw_attention(
        self,
        image: Image.Image,
        path: Path,
        layer: str | None = None,
        pixels: list[tuple[int, int]] | None = None,
        heads: Sequence[int] = (),
    ) -> str:
        """Draw what the heads of one layer look at; the layer's name.

        Args:
            image: of any size.
            path: the PNG to write.
            layer: a name, see `choose_layer`.
            pixels: (row, column) of the image; by default the three liveliest places.
            heads: which, counted from 1; by default all.
        """
        name = choose_layer(self.network, layer)
        check_heads(heads, name, attention_layers(self.network)[name].num_heads)
        tensor = self.preprocessing.evaluation(image)
        places = [self._place(image, pixel) for pixel in pixels or []]
        weights = layer_weights(self.network, tensor.to(self.device), name).cpu()
        kernel_size, height, width = weights.shape[2:]
        if places:
            on_map = [(int(y * height), int(x * width)) for y, x in places]
        else:
            on_map = busiest_pixels(tensor, height, width, 3, max(1, min(height // 3, kernel_size // 2)))
        title = f"{name}: attention of {len(heads) or len(weights)} heads over a {height} x {width} map"
        if len(heads) == 1 or len(weights) == 1:
            title = title.replace("heads", "head")
        draw_attention(self.preprocessing.square(image), weights, on_map, path, title, heads)
        return name

    def draw_layers(
        self,
        image: Image.Image,
        path: Path,
        layers: Sequence[str] = (),
        pixel: tuple[int, int] | None = None,
        heads: Sequence[int] = (),
    ) -> list[str]:
        """Draw what many layers look at from one pixel, a row for each; their names.

        Args:
            image: of any size.
            path: the PNG to write.
            layers: names, see `choose_layer`; by default all.
            pixel: (row, column) of the image; by default the liveliest place.
            heads: which, counted from 1; by default the mean over all.
        """
        known = attention_layers(self.network)
        names = [choose_layer(self.network, layer) for layer in layers or list(known) or [None]]
        for name in names:
            check_heads(heads, name, known[name].num_heads)
        tensor = self.preprocessing.evaluation(image).to(self.device)
        place = self._place(image, pixel) if pixel else self._liveliest(tensor)
        views = []
        for name, (weights, on_map, size) in layer_windows(self.network, tensor, names, place).items():
            mean = [("mean of heads" if len(weights) > 1 else "head 1", weights.mean(0).cpu())]
            windows = [(f"head {head}", weights[head - 1].cpu()) for head in heads] or mean
            views.append(LayerView(name.removesuffix(".spatial"), windows, on_map, size))
        draw_layers(self.preprocessing.square(image), views, path, "attention from one pixel, layer by layer")
        return names

    def layers(self) -> list[LayerInfo]:
        """The attention layers, with the sizes that their maps have for the images of this network."""
        size = self.preprocessing.image_size
        blank = torch.zeros(self.preprocessing.channels, size, size, device=self.device)
        return describe_layers(self.network, blank)

    def _place(self, image: Image.Image, pixel: tuple[int, int]) -> tuple[float, float]:
        return self.preprocessing.place(*pixel, image.height, image.width)

    def _liveliest(self, tensor: torch.Tensor) -> tuple[float, float]:
        """Down and across, 0 to 1: the middle of the liveliest of some hundred parts."""
        side = min(14, tensor.shape[1])
        ((row, column),) = busiest_pixels(tensor, side, side, 1, 1)
        return (row + 0.5) / side, (column + 0.5) / side


def load_trained(
    name: str | Path, kind: type, other: str, preprocessing_from: Callable[[dict[str, Any]], Any]
) -> tuple[Any, list[str], Any]:
    """A network of a kind with its labels and preprocessing.

    Args:
        name: a directory, or hf:OWNER/NAME.
        kind: class of the network.
        other: what to say of a network that is not of this kind.
        preprocessing_from: reads it from plain values.

    Raises:
        SasaError: as `Predictor.load` says.
    """
    directory = locate(name)
    if not directory.is_dir():
        raise SasaError(f"{str(name)!r} is no folder of a run or of a saved network")
    network = load_pretrained(directory)
    shown = name if on_hub(name) else directory
    if not isinstance(network, kind):
        raise SasaError(f"{shown} {other}")
    try:
        labels = [str(label) for label in network.metadata["labels"]]
        preprocessing = preprocessing_from(network.metadata["preprocessing"])
    except (KeyError, TypeError) as error:
        raise SasaError(f"{shown} holds a network without labels and preprocessing: it was not trained") from error
    if len(labels) != network.num_classes:
        raise SasaError(f"{shown} names {len(labels)} classes, but its network has {network.num_classes}")
    return network, labels, preprocessing


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU that torch can use, else the CPU.

    Raises:
        SasaError: torch sees no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SasaError(f"torch sees no GPU here for --device {name}: use cpu, or see 'sasa doctor'")
    return torch.device(name)


def preprocessing_to(preprocessing: Preprocessing | DetectionPreprocessing) -> dict[str, Any]:
    """Plain values for config.json."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(preprocessing).items()}


def preprocessing_from(values: dict[str, Any]) -> Preprocessing:
    """The inverse of `preprocessing_to`."""
    return Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
