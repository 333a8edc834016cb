"""The drawings of the predict commands: a grid of the first images in one PNG, or a directory with one an image."""

from pathlib import Path
from typing import Any

from PIL import Image

from sasa.cli.inputs import check_not_input
from sasa.draw.annotate import annotate, draw_boxes, reduce
from sasa.draw.charts import draw_predictions
from sasa.files import write_errors
from sasa.tasks.classification.predictor import Prediction, Predictor
from sasa.tasks.detection.predictor import Detected, Detector
from sasa.tasks.trained import TrainedNetwork

MOST_IN_GRID = 64


class Drawing:
    """Draws predictions one by one. This base class draws nothing."""

    def keep(self, image: Image.Image) -> Any:
        """Return the part of an image that `add` needs; it is kept in memory until the image is predicted."""

    def add(self, answer: Any, kept: Any) -> None:
        """Draw an answer."""

    def close(self) -> str:
        """Finish, and return a sentence about what was drawn."""
        return ""


def open_drawing(task: str, path: Path | None, inputs: list[Path], predictor: Any) -> Drawing:
    """Return the drawing of a task's answers for the option --draw."""
    if path is None:
        return Drawing()
    if task == "classification" and path.suffix.lower() == ".png" and not path.is_dir():
        return Grid(path, inputs, predictor)
    return ImageDirectory(path, inputs, predictor)


class Grid(Drawing):
    """One PNG with the first images as the network sees them."""

    def __init__(self, path: Path, inputs: list[Path], predictor: Predictor) -> None:
        check_not_input("--draw", path, inputs)
        self.path, self.predictor, self.count = path, predictor, 0
        self.shown: list[tuple[Prediction, Image.Image]] = []

    def keep(self, image: Image.Image) -> Image.Image | None:
        """Return a small copy, of as many images as the grid holds."""
        self.count += 1
        return self.predictor.preprocessing.square(image) if self.count <= MOST_IN_GRID else None

    def add(self, answer: Prediction, kept: Image.Image | None) -> None:
        """Add an image to the grid, if there is room."""
        if kept is not None:
            self.shown.append((answer, kept))

    def close(self) -> str:
        """Write the grid."""
        predictions = [prediction for prediction, _ in self.shown]
        guesses, shares = [p.labels[0] for p in predictions], [p.shares[0] for p in predictions]
        draw_predictions([image for _, image in self.shown], guesses, shares, None, self.path)
        left_out = f" (the first {len(self.shown)} of {self.count} images)" if self.count > len(self.shown) else ""
        return f"drawn: {self.path}{left_out}"


class ImageDirectory(Drawing):
    """A directory with one drawing for each image, its classes below it or its boxes. Inputs are never overwritten."""

    def __init__(self, path: Path, inputs: list[Path], predictor: TrainedNetwork) -> None:
        self.path, self.count, self.classes = path, 0, predictor.labels
        self.boxes = isinstance(predictor, Detector)
        self.taken = {image.resolve() for image in inputs}
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)

    def keep(self, image: Image.Image) -> Image.Image:
        """Return the image, of which a classifier needs no more than 1024 pixels a side."""
        return image if self.boxes else reduce(image)

    def add(self, answer: Prediction | Detected, kept: Image.Image) -> None:
        """Write the drawing of an image."""
        path = self.free(Path(answer.name).stem)
        with write_errors(path):
            if isinstance(answer, Detected):
                draw_boxes(kept, answer.drawn(), self.classes).save(path)
            else:
                annotate(kept, answer.labels, answer.shares).save(path)
        self.count += 1

    def free(self, stem: str) -> Path:
        """Return STEM.png, or STEM-2.png and so on where that is an input or the drawing of another image."""
        number, path = 1, self.path / f"{stem}.png"
        while path.resolve() in self.taken:
            number += 1
            path = self.path / f"{stem}-{number}.png"
        self.taken.add(path.resolve())
        return path

    def close(self) -> str:
        """Return a sentence about what was drawn."""
        return f"drawn: {self.count} images in {self.path}"
