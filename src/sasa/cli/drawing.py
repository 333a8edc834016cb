"""What `sasa predict --draw` makes: a grid of the first pictures in one PNG, or a folder with a picture each."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sasa.draw.annotate import annotate, reduce
from sasa.draw.boxes import draw_boxes
from sasa.draw.charts import draw_predictions
from sasa.errors import SasaError, UsageError
from sasa.tasks.classification.predictor import Prediction, Predictor
from sasa.tasks.detection.predictor import Detected

MOST_IN_GRID = 64


class Grid:
    """One page with the first pictures as the network saw them."""

    def __init__(self, path: Path, inputs: list[Path], predictor: Predictor) -> None:
        if path.resolve() in {picture.resolve() for picture in inputs}:
            raise UsageError(f"--draw {path} is one of the pictures to look at: name another file")
        self.path, self.predictor, self.count, self.asked = path, predictor, 0, 0
        self.shown: list[tuple[Prediction, Any]] = []

    def keep(self, picture: Image.Image) -> Image.Image | None:
        """A small copy, of as many as the page holds."""
        self.asked += 1
        return self.predictor.preprocessing.square(picture) if self.asked <= MOST_IN_GRID else None

    def add(self, prediction: Prediction, kept: Image.Image | None) -> None:
        """Put one picture on the page, where there is room."""
        self.count += 1
        if kept is not None:
            self.shown.append((prediction, kept))

    def close(self) -> str:
        """Write the page; what was drawn, in words."""
        predictions = [prediction for prediction, _ in self.shown]
        guesses, shares = [p.labels[0] for p in predictions], [p.shares[0] for p in predictions]
        draw_predictions([picture for _, picture in self.shown], guesses, shares, None, self.path)
        left_out = f" (the first {len(self.shown)} of {self.count} pictures)" if self.count > len(self.shown) else ""
        return f"drawn: {self.path}{left_out}"


class PictureFolder:
    """A folder with one drawing for each picture that was looked at. Inputs are never overwritten."""

    def __init__(self, path: Path, inputs: list[Path]) -> None:
        self.path, self.count = path, 0
        self.taken = {picture.resolve() for picture in inputs}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SasaError(f"cannot make the folder {path}: {error.strerror or error}") from error

    def write(self, name: str, drawing: Image.Image) -> None:
        """Write the drawing of a picture of that name."""
        path = self.free(Path(name).stem)
        try:
            drawing.save(path)
        except OSError as error:
            raise SasaError(f"cannot write {path}: {error.strerror or error}") from error
        self.count += 1

    def free(self, stem: str) -> Path:
        """STEM.png, or STEM-2.png and so on where that is an input, or was written for another picture."""
        number, path = 1, self.path / f"{stem}.png"
        while path.resolve() in self.taken:
            number += 1
            path = self.path / f"{stem}-{number}.png"
        self.taken.add(path.resolve())
        return path

    def close(self) -> str:
        """What was drawn, in words."""
        return f"drawn: {self.count} pictures in {self.path}"


class Folder(PictureFolder):
    """Pictures with their best classes written beside them."""

    def __init__(self, path: Path, inputs: list[Path], _predictor: Predictor) -> None:
        super().__init__(path, inputs)

    def keep(self, picture: Image.Image) -> Image.Image:
        """The picture, or a copy of at most 1024 pixels a side."""
        return reduce(picture)

    def add(self, prediction: Prediction, kept: Image.Image) -> None:
        """Write one annotated picture."""
        self.write(prediction.name, annotate(kept, prediction.labels, prediction.shares))


class BoxFolder(PictureFolder):
    """Pictures with the boxes that were found in them."""

    def __init__(self, path: Path, inputs: list[Path], classes: list[str]) -> None:
        super().__init__(path, inputs)
        self.classes = classes

    def add(self, picture: Image.Image, found: Detected) -> None:
        """Write one picture with its boxes."""
        boxes = torch.tensor(found.boxes).view(-1, 4)
        self.write(found.name, draw_boxes(picture, boxes, found.labels, found.scores, self.classes))
