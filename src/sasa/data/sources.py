"""Where pictures and labels come from: the built-in digits, class folders, Hugging Face image parquet.

A source is opened by one string: "digits", or a path whose contents say what it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sasa.data.pictures import SUFFIXES, is_picture, read_picture
from sasa.errors import DataError

TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "validation", "valid", "test")


class Source(ABC):
    """Pictures with labels. `labels[i]` is an index into `classes`."""

    classes: list[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Picture `index`, upright, 8 bits, RGB or gray."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a person would call picture `index`: for messages."""


class Digits(Source):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 gray, installed with it: no download."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.classes = [str(digit) for digit in range(10)]
        self.labels = [int(label) for label in digits.target]  # pyright: ignore[reportAttributeAccessIssue]
        # Stored as 0 to 16; as 8-bit pictures, 16 is white.
        images = digits.images  # pyright: ignore[reportAttributeAccessIssue]
        self._pixels = np.minimum(images * 16, 255).astype(np.uint8)

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Digit `index`, 8 x 8."""
        return Image.fromarray(self._pixels[index]).convert("L" if channels == 1 else "RGB")

    def name(self, index: int) -> str:
        """The digit's place in scikit-learn's set."""
        return f"digit {index}"


class ClassFolders(Source):
    """A folder with one folder of pictures for each class (ImageNet's layout)."""

    def __init__(self, root: Path, classes: list[str] | None = None) -> None:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        self.classes = classes or [folder.name for folder in folders]
        unknown = [folder.name for folder in folders if folder.name not in self.classes]
        if unknown:
            raise DataError(f"{root} has a class {unknown[0]!r} that the training pictures lack")
        self.paths: list[Path] = []
        self.labels = []
        for folder in folders:
            found = sorted(p for p in folder.rglob("*") if p.is_file() and is_picture(p))
            self.paths += found
            self.labels += [self.classes.index(folder.name)] * len(found)
        if not self.paths:
            raise DataError(
                f"{root} holds no pictures: expected a folder for each class with files ending in {', '.join(SUFFIXES)}"
            )
        empty = [name for label, name in enumerate(self.classes) if label not in set(self.labels)]
        if empty and classes is None:
            raise DataError(f"{root / empty[0]} holds no pictures ({len(empty)} of {len(self.classes)} classes empty)")

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The picture of file `index`."""
        return read_picture(self.paths[index], channels=channels)

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])


class ImageParquet(Source):
    """Parquet as Hugging Face publishes image data sets: a column of {bytes, path} and one of labels.

    The bytes are held in memory, compressed as they are in the file.
    """

    def __init__(self, paths: list[Path]) -> None:
        import pyarrow
        import pyarrow.parquet

        self.paths = paths
        tables = []
        for path in paths:
            try:
                table = pyarrow.parquet.read_table(path)
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{path} is not a whole parquet file: {str(error).splitlines()[0]}") from error
            tables.append((path, table))
        path, table = tables[0]
        image = _column(path, table, ("image", "img"))
        label = _column(path, table, ("label", "labels", "fine_label"))
        columns = [table.select([image, label]) for path, table in tables]
        try:
            whole = pyarrow.concat_tables(columns)
            self._bytes = whole.column(image).combine_chunks().field("bytes")
            self.labels = [int(value) for value in whole.column(label).to_pylist()]
        except (pyarrow.ArrowException, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: column {image!r} must hold {{bytes, path}} and {label!r} integers") from error
        self.classes = _class_names(table, label) or [str(n) for n in range(max(self.labels, default=-1) + 1)]
        if not self.labels:
            raise DataError(f"{path} holds no pictures")
        if min(self.labels) < 0 or max(self.labels) >= len(self.classes):
            raise DataError(f"{path} has labels outside 0 to {len(self.classes) - 1}")

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The picture of row `index`."""
        content = self._bytes[index].as_py()
        if content is None:
            raise DataError(f"{self.name(index)} holds no bytes: pictures must be inside the file, not beside it")
        return read_picture(content, self.name(index), channels)

    def name(self, index: int) -> str:
        """File and row."""
        return f"{self.paths[0]} row {index}"


def _column(path: Path, table, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise DataError(f"{path} has columns {', '.join(table.column_names)}; expected one of {', '.join(names)}")


def _class_names(table, label: str) -> list[str] | None:
    """The names that Hugging Face's datasets library keeps in the file's metadata, if they are there."""
    import json

    metadata = (table.schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(metadata)["info"]["features"][label]["names"] if metadata else None
    except (ValueError, KeyError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


class Subset(Source):
    """Some pictures of a source, in the given order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = list(indices)
        self.classes = source.classes
        self.labels = [source.labels[index] for index in self.indices]

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Picture `index` of the subset."""
        return self.source.read(self.indices[index], channels)

    def name(self, index: int) -> str:
        """Its name in the whole source."""
        return self.source.name(self.indices[index])


def open_splits(data: str, held_out: float, seed: int) -> tuple[Source, Source]:
    """The training pictures and the held-out pictures of a data set.

    Args:
        data: "digits"; or a folder of class folders, or with train/ and val/ (or test/) of them; or a folder of
            parquet files named train-* and test-* (or validation-*); or one parquet file.
        held_out: the fraction held out, drawn class by class with `seed`, where the data has no split of its own.
        seed: of that draw.

    Raises:
        DataError: nothing there, or not what was expected; names the path.
    """
    if data == "digits":
        return split(Digits(), held_out, seed)
    root = Path(data).expanduser()
    if root.is_file() and root.suffix == ".parquet":
        return split(ImageParquet([root]), held_out, seed)
    if not root.is_dir():
        raise DataError(f"{data!r} is no folder, no parquet file, and not the built-in set 'digits'")
    return _open_parquet_folder(root, held_out, seed) or _open_class_folders(root, held_out, seed)


def _open_parquet_folder(root: Path, held_out: float, seed: int) -> tuple[Source, Source] | None:
    files = sorted(root.glob("*.parquet"))
    if not files:
        return None
    train = [f for f in files if f.name.startswith(TRAIN_NAMES)]
    other = next((found for name in HELD_OUT_NAMES if (found := [f for f in files if f.name.startswith(name)])), [])
    if train and other:
        sources = ImageParquet(train), ImageParquet(other)
        if sources[0].classes != sources[1].classes:
            raise DataError(f"{other[0]} has other classes than {train[0]}")
        return sources
    return split(ImageParquet(train or files), held_out, seed)


def _open_class_folders(root: Path, held_out: float, seed: int) -> tuple[Source, Source]:
    if not any(root.iterdir()):
        raise DataError(f"{root} is empty")
    train = next((root / name for name in TRAIN_NAMES if (root / name).is_dir()), None)
    other = next((root / name for name in HELD_OUT_NAMES if (root / name).is_dir()), None)
    if train is None:
        return split(ClassFolders(root), held_out, seed)
    source = ClassFolders(train)
    return (source, ClassFolders(other, source.classes)) if other else split(source, held_out, seed)


def split(source: Source, held_out: float, seed: int) -> tuple[Source, Source]:
    """Hold out a fraction of the pictures, class by class; the same for the same seed."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(source.labels)
    train, other = [], []
    for label in range(len(source.classes)):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, round(len(members) * held_out)) if len(members) > 1 else 0
        other += members[:count].tolist()
        train += members[count:].tolist()
    if not train or not other:
        raise DataError(f"{len(source)} pictures are too few to hold out a fraction of {held_out}")
    return Subset(source, sorted(train)), Subset(source, sorted(other))
