"""What a source of images with boxes is, and what those have in common whose images are files."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from sasa.data.classification.names import NameTable, printable
from sasa.data.detection.annotations import Problem, Targets, TargetTable
from sasa.data.images import read_image
from sasa.errors import DataError

# EXIF's tag of how the camera was held, and its values with which the image is turned by a quarter.
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)


class DetectionSource(ABC):
    """Images with boxes. `category_ids[i]` is the number that the annotation file gives to `classes[i]`.

    `problems` says what of the annotations was left out or changed. Sources can be pickled and copied into other
    processes.
    """

    classes: list[str]
    category_ids: list[int]
    problems: list[Problem]
    groups: None = None

    @abstractmethod
    def __len__(self) -> int:
        """Images, with and without boxes."""

    @abstractmethod
    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Image `index`, upright, 8 bits, RGB (channels=3) or gray (channels=1).

        Raises:
            DataError: it cannot be read, or does not have the size that it was annotated at.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """The path of image `index`: for messages."""

    @abstractmethod
    def file_name(self, index: int) -> str:
        """What the annotations call image `index`."""

    @abstractmethod
    def image_id(self, index: int) -> int | str:
        """The number (or word) of image `index` in `coco()`."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index`, upright, as annotated."""

    @abstractmethod
    def targets(self, index: int) -> Targets:
        """The boxes of image `index` that can be learned, and its crowds."""

    @abstractmethod
    def coco(self) -> dict[str, Any]:
        """What predictions are scored against, as in COCO's files: images, annotations, categories."""


class DetectionSubset(DetectionSource):
    """Some images of a source, in the given order."""

    def __init__(self, source: DetectionSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)
        self.classes, self.category_ids = source.classes, source.category_ids
        names = {source.file_name(index) for index in self.indices}
        self.problems = [problem for problem in source.problems if not problem.image or problem.image in names]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Image `index` of the subset."""
        return self.source.read(self.indices[index], channels)

    def name(self, index: int) -> str:
        """Its path."""
        return self.source.name(self.indices[index])

    def file_name(self, index: int) -> str:
        """Its name in the annotations."""
        return self.source.file_name(self.indices[index])

    def image_id(self, index: int) -> int | str:
        """Its number in the whole source."""
        return self.source.image_id(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        """Its (height, width)."""
        return self.source.size(self.indices[index])

    def targets(self, index: int) -> Targets:
        """Its boxes."""
        return self.source.targets(self.indices[index])

    def coco(self) -> dict[str, Any]:
        """Of the whole source what concerns these images."""
        whole = self.source.coco()
        own = {self.source.image_id(index) for index in self.indices}
        images = [image for image in whole["images"] if image["id"] in own]
        annotations = [annotation for annotation in whole["annotations"] if annotation["image_id"] in own]
        return {**whole, "images": images, "annotations": annotations}


class ImageFiles(DetectionSource):
    """Images in a folder, whose boxes are known.

    Args:
        folder: of the images.
        names: of the N images, below the folder.
        image_ids: of the N images.
        sizes: (N, 2): height and width.
        table: their boxes.
        classes, category_ids, problems: see `DetectionSource`.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        image_ids: Sequence[int | str],
        sizes: np.ndarray,
        table: TargetTable,
        classes: list[str],
        category_ids: list[int],
        problems: list[Problem],
    ) -> None:
        self._folder, self._names, self._image_ids = str(folder), NameTable(names), image_ids
        self._sizes, self._table = sizes, table
        self.classes, self.category_ids, self.problems = classes, category_ids, problems

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The image of file `index`; it must have the annotated size when upright."""
        image = read_image(self.path(index), self.name(index), channels)
        if (image.height, image.width) != self.size(index):
            height, width = self.size(index)
            raise DataError(
                f"{self.name(index)} is {image.height} x {image.width} pixels when upright, but was annotated as "
                f"{height} x {width} (height x width): its boxes belong to another image, or to one that lies on "
                "its side"
            )
        return image

    def path(self, index: int) -> Path:
        """Where image `index` lies."""
        return Path(self._folder, self._names[index])

    def name(self, index: int) -> str:
        """The file's path."""
        return printable(self.path(index))

    def file_name(self, index: int) -> str:
        """The path below the folder of the images."""
        return printable(self._names[index])

    def image_id(self, index: int) -> int | str:
        """As the annotations have it."""
        return self._image_ids[index]

    def size(self, index: int) -> tuple[int, int]:
        """As the annotations have it; where they say nothing, as the file's header has it."""
        height, width = self._sizes[index].tolist()
        return height, width

    def targets(self, index: int) -> Targets:
        """The boxes that can be learned, and the crowds."""
        return self._table[index]


def check_inside(where: str, name: str) -> None:
    """See to it that an image's name leads to a place below the folder of the images.

    Raises:
        DataError: it is an absolute path, climbs out with "..", or cannot be a name at all.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise DataError(f"{where} names an image {name!a}, which no file can be called") from error
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DataError(f"{where} names an image {printable(name)!r}, which leads out of the folder of the images")


def check_there(where: str, folder: Path, names: Iterable[str]) -> None:
    """See to it that the images exist, with one look into each folder instead of one for each of them.

    Raises:
        DataError: some do not.
    """
    names = [os.path.normpath(name) for name in names]
    parents = {os.path.dirname(name) for name in names}  # noqa: PTH120 - a hundred thousand names
    there = {f"{parent}/{name}".lstrip("/") for parent in parents for name in _listing(folder / parent)}
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"{where} names {len(names)} images, of which {len(missing)} are not in {printable(folder)}: "
            f"{printable(missing[0])}{' and others' if len(missing) > 1 else ''}"
        )


def _listing(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) that an image file has when upright; only its header is read.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            turned = opened.getexif().get(ORIENTATION) in QUARTER_TURNS
    except Exception as error:  # damaged files make decoders fail in every way there is
        raise DataError(f"{printable(path)} is not an image that can be read") from error
    return (width, height) if turned else (height, width)
