"""A trained classifier: predict the classes of images, and draw the attention of its layers."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from sasa.data.classification import open_splits
from sasa.data.classification.transforms import Preprocessing
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
from sasa.models import ResNet
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.trained import LARGEST, Answer, NamedImage, TrainedNetwork

GRID = 14  # rows and columns of the grid in which the busiest pixels of an image are chosen
MOST_CLASSES = 10  # of which a validation image is shown
SHOWN_PIXELS = 3  # busiest pixels that are drawn by default


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of an image and their softmax, best first."""

    name: str
    labels: list[str]
    shares: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class Predictor(TrainedNetwork):
    """A trained classifier with its class names and preprocessing; it sees the square at the centre of an image."""

    KIND: ClassVar[str] = "classifier"
    NETWORK: ClassVar[type] = ResNet
    OTHER_TASK: ClassVar[str] = "holds a detector: use sasa detect eval or sasa detect predict"
    BATCH: ClassVar[int] = 32

    @staticmethod
    def preprocessing_from(values: dict[str, Any]) -> Preprocessing:
        """Make the preprocessing from plain values."""
        return Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return (channels, image_size, image_size), normalised."""
        return self.preprocessing.evaluation(image)

    @torch.no_grad()
    def answers(
        self, names: Sequence[str], prepared: Sequence[torch.Tensor], options: int | None = None
    ) -> list[Prediction]:
        """Return a prediction for each image, with the `options` (5) most likely classes."""
        logits = self.network(torch.stack(list(prepared)).to(self.device)).float()
        shares, indices = logits.softmax(1).topk(min(options or 5, len(self.labels)))
        rows = zip(names, indices.tolist(), shares.tolist(), strict=True)
        return [Prediction(name, [self.labels[index] for index in best], values) for name, best, values in rows]

    @property
    def side(self) -> int:
        """Side in pixels of the network's square input."""
        return self.preprocessing.image_size

    def inputs(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return (B, channels, side, side)."""
        return torch.stack([self.prepare(image) for image in images])

    def best(self, image: Image.Image, score: float = 0.0) -> list[Answer]:
        """Return the five most likely classes, best first; `score` is for detectors."""
        (prediction,) = self.predict([("", image)])
        return [Answer(*pair) for pair in zip(prediction.labels, prediction.shares, strict=True)]

    def shown(self, image: Image.Image) -> Image.Image:
        """Return the square that the network sees, at a higher resolution if the image has it."""
        finest = min(min(image.size) / self.preprocessing.resized_side, LARGEST / self.side)
        return replace(self.preprocessing, image_size=round(self.side * max(1.0, finest))).square(image)

    def seen_size(self, image: Image.Image) -> tuple[int, int]:
        """Return (side, side)."""
        return self.side, self.side

    def validation_images(self, directory: Path) -> Iterator[NamedImage]:
        """Return the first validation image of each class, for at most ten classes."""
        config = TrainConfig.read(str(directory / "config.yaml"))
        source = open_splits(config.data.source, config.data.held_out, config.run.seed)[1]
        labels = list(source.labels)
        for label in sorted(set(labels))[:MOST_CLASSES]:
            index = labels.index(label)
            image = source.read(index, self.preprocessing.channels)
            yield NamedImage(source.name(index), image, source.classes[label])

    def draw_attention(
        self,
        image: Image.Image,
        path: Path,
        layer: str | None = None,
        pixels: list[tuple[int, int]] | None = None,
        heads: Sequence[int] = (),
    ) -> str:
        """Draw the attention of one layer's heads; return the layer's name.

        Args:
            image: of any size.
            path: the PNG to write.
            layer: a name, see `choose_layer`.
            pixels: (row, column) in the image; by default the three busiest.
            heads: numbers, counted from 1; by default all.
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
            apart = max(1, min(height // 3, kernel_size // 2))
            on_map = busiest_pixels(tensor, height, width, SHOWN_PIXELS, apart)
        count = len(heads) or len(weights)
        title = f"{name}: attention of {count} head{'s' * (count > 1)} over a {height} x {width} map"
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
        """Draw the attention of several layers for one pixel, a row for each layer; return their names.

        Args:
            image: of any size.
            path: the PNG to write.
            layers: names, see `choose_layer`; by default all.
            pixel: (row, column) in the image; by default the busiest.
            heads: numbers, counted from 1; by default the mean over all.
        """
        known = attention_layers(self.network)
        names = [choose_layer(self.network, layer) for layer in layers or list(known) or [None]]
        for name in names:
            check_heads(heads, name, known[name].num_heads)
        tensor = self.preprocessing.evaluation(image).to(self.device)
        place = self._place(image, pixel) if pixel else self._busiest(tensor)
        views = []
        for name, (weights, on_map, size) in layer_windows(self.network, tensor, names, place).items():
            mean = [("mean of heads" if len(weights) > 1 else "head 1", weights.mean(0).cpu())]
            windows = [(f"head {head}", weights[head - 1].cpu()) for head in heads] or mean
            views.append(LayerView(name.removesuffix(".spatial"), windows, on_map, size))
        draw_layers(self.preprocessing.square(image), views, path, "attention from one pixel, layer by layer")
        return names

    def layers(self) -> list[LayerInfo]:
        """Return the attention layers, with the sizes of their feature maps for the images of this network."""
        size = self.preprocessing.image_size
        blank = torch.zeros(self.preprocessing.channels, size, size, device=self.device)
        return describe_layers(self.network, blank)

    def _place(self, image: Image.Image, pixel: tuple[int, int]) -> tuple[float, float]:
        return self.preprocessing.place(*pixel, image.height, image.width)

    def _busiest(self, tensor: torch.Tensor) -> tuple[float, float]:
        """Return (down, across), fractions 0 to 1, of the busiest pixel."""
        side = min(GRID, tensor.shape[1])
        ((row, column),) = busiest_pixels(tensor, side, side, 1, 1)
        return (row + 0.5) / side, (column + 0.5) / side
