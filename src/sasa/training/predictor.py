"""A trained network with what belongs to it: class names and preprocessing. Predicts pictures and shows attention."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sasa.analysis.attention_maps import busiest_pixels, choose_layer, layer_weights
from sasa.analysis.pictures import draw_attention
from sasa.data.pictures import is_picture, read_picture
from sasa.data.transforms import Preprocessing
from sasa.errors import ArgumentError, DataError, SasaError
from sasa.models import ResNet, create_model


@dataclass(frozen=True)
class Prediction:
    """What the network says of one picture: class names and their softmax, best first."""

    name: str
    labels: list[str]
    shares: list[float]


class Predictor:
    """A network of a run's folder, or of any directory that `save_pretrained` wrote with labels and preprocessing."""

    def __init__(self, network: ResNet, labels: list[str], preprocessing: Preprocessing) -> None:
        self.network, self.labels, self.preprocessing = network.eval(), labels, preprocessing
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, directory: str | Path) -> "Predictor":
        """Read weights, labels and preprocessing.

        Raises:
            SasaError: not such a directory, or one whose weights carry no labels or preprocessing.
        """
        if not Path(directory).is_dir():
            raise SasaError(f"{str(directory)!r} is no folder of a run or of a saved network")
        network = create_model(directory)
        assert isinstance(network, ResNet)
        try:
            labels = [str(label) for label in network.metadata["labels"]]
            preprocessing = preprocessing_from(network.metadata["preprocessing"])
        except (KeyError, TypeError) as error:
            raise SasaError(
                f"{directory} holds a network without labels and preprocessing: it was not trained"
            ) from error
        if len(labels) != network.num_classes:
            raise SasaError(f"{directory} names {len(labels)} classes, but its network has {network.num_classes}")
        return cls(network, labels, preprocessing)

    @torch.no_grad()
    def predict(self, pictures: Iterable[tuple[str, Image.Image]], top: int = 5) -> list[Prediction]:
        """The `top` best classes of each (name, picture)."""
        predictions = []
        for name, picture in pictures:
            tensor = self.preprocessing.evaluation(picture).to(self.device)
            shares, places = self.network(tensor[None])[0].float().softmax(0).topk(min(top, len(self.labels)))
            predictions.append(Prediction(name, [self.labels[place] for place in places.tolist()], shares.tolist()))
        return predictions

    def read(self, path: Path) -> Image.Image:
        """A picture file in the network's channels."""
        return read_picture(path, channels=self.preprocessing.channels)

    def draw_attention(
        self, picture: Image.Image, path: Path, layer: str | None = None, pixels: list[tuple[int, int]] | None = None
    ) -> str:
        """Draw what the heads of one layer look at; the layer's name.

        Args:
            picture: of any size.
            path: the PNG to write.
            layer: a name, see `choose_layer`.
            pixels: (row, column) of the picture; by default the three liveliest places.
        """
        name = choose_layer(self.network, layer)
        tensor = self.preprocessing.evaluation(picture)
        weights = layer_weights(self.network, tensor.to(self.device), name)
        kernel_size, height, width = weights.shape[2:]
        if pixels:
            size = (picture.height, picture.width)
            places = [self.preprocessing.place(row, column, *size) for row, column in pixels]
            on_map = [(int(y * height), int(x * width)) for y, x in places]
        else:
            on_map = busiest_pixels(tensor, height, width, 3, max(1, min(height // 3, kernel_size // 2)))
        title = f"{name}: attention of {weights.shape[0]} heads over a {height} x {width} map"
        draw_attention(self.preprocessing.square(picture), weights, on_map, path, title)
        return name


def preprocessing_to(preprocessing: Preprocessing) -> dict[str, Any]:
    """Plain values for config.json."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(preprocessing).items()}


def preprocessing_from(values: dict[str, Any]) -> Preprocessing:
    """The inverse of `preprocessing_to`."""
    return Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def find_pictures(arguments: list[str]) -> list[Path]:
    """Picture files named by paths, folders (searched through) and shell patterns.

    Raises:
        DataError: an argument that names nothing, or a folder without pictures.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and is_picture(p))
            if not inside:
                raise DataError(f"{argument} holds no pictures")
            found += inside
        else:
            matches = sorted(p for p in path.parent.glob(path.name) if p.is_file()) if path.name else []
            if not matches:
                raise DataError(f"{argument} is no file, no folder and matches nothing")
            found += matches
    return found


def parse_pixel(text: str) -> tuple[int, int]:
    """(12, 30) of "12,30": row and column."""
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"--pixel takes ROW,COLUMN in pixels of the picture, got {text!r}") from None
    return row, column
