"""Pascal VOC's format: an XML file of boxes for each image, and lists of the images of each split."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sasa.data.classification.names import printable
from sasa.data.detection.annotations import Problem
from sasa.data.detection.cleaning import Objects, clean
from sasa.data.detection.source import ImageFiles, check_inside, upright_size
from sasa.data.detection.voc_xml import Record, read_record
from sasa.data.images import SUFFIXES
from sasa.errors import DataError

ANNOTATIONS, IMAGES, LISTS = "Annotations", "JPEGImages", "ImageSets/Main"


class VocSource(ImageFiles):
    """Images of a folder in Pascal VOC's layout: Annotations/, JPEGImages/, ImageSets/Main/.

    VOC counts pixels from 1 and the last one in: its box 1, 1, 4, 3 is 0, 0, 4, 3 here, 4 pixels wide and 3 high.
    Objects marked as difficult are crowds here, neither learned nor scored (`iscrowd` in `coco()`).

    Args:
        folder: that holds the three.
        split: a list in ImageSets/Main ("train", "val", "trainval", "test"), or the ids of the images.
        classes: the classes to number by; by default those of the training images (those of the images
            themselves for any other list than "val" and "test"), sorted by name.

    Raises:
        DataError: a list, an XML file or an image is missing or damaged, a class is not among the classes, or there
            is no box that can be used.
    """

    def __init__(self, folder: Path, split: str | Sequence[str], classes: list[str] | None = None) -> None:
        ids = read_list(folder, split) if isinstance(split, str) else list(split)
        title = printable(_list_path(folder, split) if isinstance(split, str) else folder)
        if not ids:
            raise DataError(f"{title} lists no images")
        names = _image_names(folder, title, ids)
        records = [read_record(_xml_path(folder, identity)) for identity in ids]
        if classes is None:
            train = training_list(folder) if split in ("val", "test") else None
            classes = _classes(_records(folder, train) if train else records)
        objects, problems = _objects(folder, ids, names, records, classes)
        sizes = np.array([r.size or upright_size(folder / IMAGES / n) for r, n in zip(records, names, strict=True)])
        table, problems = clean(objects, problems, sizes, names, title)
        numbers = list(range(1, len(ids) + 1))
        categories = list(range(1, len(classes) + 1))
        super().__init__(folder / IMAGES, names, numbers, sizes, table, classes, categories, problems)

    def coco(self) -> dict[str, Any]:
        """The boxes as COCO writes them; images, boxes and classes numbered from 1."""
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


def training_list(folder: Path) -> str | None:
    """The list of the training images, if there is one."""
    return next((name for name in ("train", "trainval") if _list_path(folder, name).is_file()), None)


def read_list(folder: Path, split: str) -> list[str]:
    """The ids of the images of a split.

    Raises:
        DataError: there is no such list, or an image stands on it twice.
    """
    path = _list_path(folder, split)
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)} is no list of images: it is no text in UTF-8") from error
    if len(set(ids)) < len(ids):
        twice = next(identity for identity in ids if ids.count(identity) > 1)
        raise DataError(f"{printable(path)} lists {twice!r} twice")
    return ids


def _list_path(folder: Path, split: str) -> Path:
    return folder / LISTS / f"{split}.txt"


def _xml_path(folder: Path, identity: str) -> Path:
    return folder / ANNOTATIONS / f"{identity}.xml"


def _image_names(folder: Path, title: str, ids: list[str]) -> list[str]:
    """The file of each image: JPEG in VOC itself, any format in the sets of others."""
    for identity in ids:
        check_inside(title, identity)
    directory = folder / IMAGES
    listing = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    by_id = {PurePosixPath(n).stem: n for n in listing if PurePosixPath(n).suffix.lower() in SUFFIXES}
    missing = [identity for identity in ids if identity not in by_id]
    if missing:
        raise DataError(
            f"{title} names {len(ids)} images, of which {len(missing)} are not in {printable(directory)}: {missing[0]}"
            f"{' and others' if len(missing) > 1 else ''}"
        )
    return [by_id[identity] for identity in ids]


def _records(folder: Path, split: str) -> list[Record]:
    return [read_record(_xml_path(folder, identity)) for identity in read_list(folder, split)]


def _classes(records: list[Record]) -> list[str]:
    return sorted({drawn.name for record in records for drawn in record.objects if drawn.name})


def _objects(
    folder: Path, ids: list[str], names: list[str], records: list[Record], classes: list[str]
) -> tuple[Objects, list[Problem]]:
    """The boxes that are numbers, and what is wrong with the others."""
    objects, problems = Objects(), []
    numbers = {name: number for number, name in enumerate(classes)}
    for place, (identity, name, record) in enumerate(zip(ids, names, records, strict=True)):
        where = printable(_xml_path(folder, identity))
        if record.size is None:
            problems.append(Problem(where, name, None, "has no size there: that of the image file is taken"))
        for count, drawn in enumerate(record.objects, 1):
            if isinstance(drawn.box, str):
                problems.append(Problem(where, name, count, drawn.box))
            elif drawn.name not in numbers:
                raise DataError(f"{where} has a class {drawn.name!r} that the training images lack")
            else:
                objects.add(place, numbers[drawn.name], drawn.box, drawn.difficult, count, where)
    return objects, problems
