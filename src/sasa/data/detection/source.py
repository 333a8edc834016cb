"""Images with boxes: the interface, and the base class of sources whose images are files."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sasa.data.detection.annotations import Problem, Targets, TargetTable
from sasa.data.source import FileSource, ImageSource
from sasa.data.text import NameTable, opened, printable
from sasa.errors import DataError

# EXIF's orientation tag, and its values that turn the image by 90 degrees.
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)


class DetectionSource(ImageSource):
    """Images with boxes."""

    category_ids: Sequence[int | str]  # the id that the annotation file gives to each of `classes`
    problems: list[Problem]  # annotations that were left out or changed

    @abstractmethod
    def file_name(self, index: int) -> str:
        """Name of image `index` in problems: its path below the directory of the images."""

    @abstractmethod
    def image_id(self, index: int) -> int | str:
        """Id of image `index` in `coco()`."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index`, upright, as annotated."""

    @abstractmethod
    def targets(self, index: int) -> Targets:
        """The boxes of image `index` that can be trained on, and its crowds."""

    @abstractmethod
    def coco(self) -> dict[str, Any]:
        """The ground truth that predictions are scored against, in COCO's format: images, annotations, categories."""


class ImageFiles(FileSource, DetectionSource):
    """N images in a directory, whose boxes are known.

    `names` are paths below the directory, `sizes` (N, 2) are heights and widths, and `categories` are the ids of the
    classes by their names, in the order of the labels.
    """

    def __init__(
        self,
        directory: Path,
        names: list[str],
        image_ids: Sequence[int | str],
        sizes: np.ndarray,
        table: TargetTable,
        categories: dict[str, int | str],
        problems: list[Problem],
    ) -> None:
        self._directory, self._names, self._image_ids = str(directory), NameTable(names), image_ids
        self._sizes, self._table = sizes, table
        self.classes, self.category_ids, self.problems = list(categories), list(categories.values()), problems

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Read the image of file `index`; it must have the annotated size when upright."""
        image = super().read(index, channels)
        if (image.height, image.width) != self.size(index):
            height, width = self.size(index)
            raise DataError(
                f"{self.name(index)} is {image.height} x {image.width} pixels when upright, but was annotated as "
                f"{height} x {width} (height x width): its boxes belong to another image, or to one that lies on "
                "its side"
            )
        return image

    def file_name(self, index: int) -> str:
        """Path of image `index` below the directory."""
        return printable(self._names[index])

    def image_id(self, index: int) -> int | str:
        """Id of image `index` in the annotations."""
        return self._image_ids[index]

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) from the annotations, or from the file's header if they do not state it."""
        height, width = self._sizes[index].tolist()
        return height, width

    def targets(self, index: int) -> Targets:
        """The boxes that can be trained on, and the crowds."""
        return self._table[index]

    def counts(self) -> list[int]:
        """The number of boxes of each class, crowds left out."""
        return self._table.counts(len(self.classes))

    def coco(self) -> dict[str, Any]:
        """The boxes that can be trained on and the crowds, in COCO's format; boxes are numbered from 1."""
        images, annotations = [], []
        for index in range(len(self)):
            height, width = self.size(index)
            image = self.image_id(index)
            images.append({"id": image, "file_name": self.file_name(index), "height": height, "width": width})
            t = self.targets(index)
            for box, label, crowd in zip(t.boxes.tolist(), t.labels.tolist(), t.crowd.tolist(), strict=True):
                x1, y1, x2, y2 = box
                annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": self.category_ids[label]}
                width, height = x2 - x1, y2 - y1
                annotation |= {"bbox": [x1, y1, width, height], "area": width * height, "iscrowd": int(crowd)}
                annotations.append(annotation)
        categories = [{"id": n, "name": name} for n, name in zip(self.category_ids, self.classes, strict=True)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


class DetectionSubset(ImageFiles):
    """Some images of a source, in the given order."""

    def __init__(self, source: ImageFiles, indices: Sequence[int]) -> None:
        self.source, self.description = source, source.description
        names, ids = [source._names[index] for index in indices], [source.image_id(index) for index in indices]
        known = {"", *names}
        problems = [problem for problem in source.problems if problem.image in known]
        categories = dict(zip(source.classes, source.category_ids, strict=True))
        table = source._table.of_images(indices)
        super().__init__(Path(source._directory), names, ids, source._sizes[indices], table, categories, problems)

    def coco(self) -> dict[str, Any]:
        """The part of the whole source's ground truth that is of these images."""
        whole, own = self.source.coco(), set(self._image_ids)
        images = [image for image in whole["images"] if image["id"] in own]
        annotations = [annotation for annotation in whole["annotations"] if annotation["image_id"] in own]
        return {**whole, "images": images, "annotations": annotations}


# An opener takes the classes in the order of their labels, or None.
Openers = dict[str, Callable[[list[str] | None], ImageFiles]]
# The openers of a format's splits by the name of the format; empty if `path` does not hold it.
Look = Callable[[Path], dict[str, Openers]]


def upright_size(path: Path) -> tuple[int, int]:
    """Read (height, width) of the upright image from its header; raises `DataError` if it cannot be read."""
    try:
        with opened(path) as file, Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in QUARTER_TURNS
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        raise DataError(f"{printable(path)} is not an image that can be read") from error
    return (width, height) if turned else (height, width)
