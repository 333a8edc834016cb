"""What `sasa predict --draw` makes: a grid of the first images in one PNG, or a folder with an image each."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sasa.draw.annotate import LabelledBoxes, annotate, draw_boxes, reduce
from sasa.draw.charts import draw_predictions
from sasa.errors import SasaError, UsageError
from sasa.tasks.classification.predictor import Prediction, Predictor
from sasa.tasks.detection.predictor import Detected

MOST_IN_GRID = 64


class Grid:
    """One page with the first images as the network saw them."""

    def __init__(self, path: Path, inputs: list[Path], predictor: Predictor) -> None:
        if path.resolve() in {image.resolve() for image in inputs}:
            raise UsageError(f"--draw {path} is one of the images to look at: name another file")
        self.path, self.predictor, self.count, self.asked = path, predictor, 0, 0
        self.shown: list[tuple[Prediction, Any]] = []

    def keep(self, image: Image.Image) -> Image.Image | None:
        """A small copy, of as many as the page holds."""
        self.asked += 1
        return self.predictor.preprocessing.square(image) if self.asked <= MOST_IN_GRID else None

    def add(self, prediction: Prediction, kept: Image.Image | None) -> None:
        """Put one image on the page, where there is room."""
        self.count += 1
        if kept is not None:
            self.shown.append((prediction, kept))

    def close(self) -> str:
        """Write the page; what was drawn, in words."""
        predictions = [prediction for prediction, _ in self.shown]
        guesses, shares = [p.labels[0] for p in predictions], [p.shares[0] for p in predictions]
        draw_predictions([image for _, image in self.shown], guesses, shares, None, self.path)
        left_out = f" (the first {len(self.shown)} of {self.count} images)" if self.count > len(self.shown) else ""
        return f"drawn: {self.path}{left_out}"


class ImageFolder:
    """A folder with one drawing for each image that was looked at. Inputs are never overwritten."""

    def __init__(self, path: Path, inputs: list[Path]) -> None:
        self.path, self.count = path, 0
        self.taken = {image.resolve() for image in inputs}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SasaError(f"cannot make the folder {path}: {error.strerror or error}") from error

    def write(self, name: str, drawing: Image.Image) -> None:
        """Write the drawing of an image of that name."""
        path = self.free(Path(name).stem)
        try:
            drawing.save(path)
        except OSError as error:
            raise SasaError(f"cannot write {path}: {error.strerror or error}") from error
        self.count += 1

    def free(self, stem: str) -> Path:
        """STEM.png, or STEM-2.png and so on where that is an input, or was written for another image."""
        number, path = 1, self.path / f"{stem}.png"
        while path.resolve() in self.taken:
            number += 1
            path = self.path / f"{stem}-{number}.png"
        self.taken.add(path.resolve())
        return path

    def close(self) -> str:
        """What was drawn, in words."""
        return f"drawn: {self.count} images in {self.path}"


class Folder(ImageFolder):
    """Images with their best classes written beside them."""

    def __init__(self, path: Path, inputs: list[Path], _predictor: Predictor) -> None:
        super().__init__(path, inputs)

    def keep(self, image: Image.Image) -> Image.Image:
        """The image, or a copy of at most 1024 pixels a side."""
        return reduce(image)

    def add(self, prediction: Prediction, kept: Image.Image) -> None:
        """Write one annotated image."""
        self.write(prediction.name, annotate(kept, prediction.labels, prediction.shares))


class BoxFolder(ImageFolder):
    """Images with the boxes that were found in them."""

    def __init__(self, path: Path, inputs: list[Path], classes: list[str]) -> None:
        super().__init__(path, inputs)
        self.classes = classes

    def add(self, image: Image.Image, found: Detected) -> None:
        """Write one image with its boxes."""
        boxes = torch.tensor(found.boxes).view(-1, 4)
        self.write(found.name, draw_boxes(image, LabelledBoxes(boxes, found.labels, found.scores), self.classes))
