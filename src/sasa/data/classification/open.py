"""One string opens any data set: what it is, its contents say."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from sasa.data.classification.cifar import LAYOUTS, layout_of, open_cifar
from sasa.data.classification.digits import Digits
from sasa.data.classification.folders import ClassFolders, NoImagesError
from sasa.data.classification.idx import holds_idx, open_idx
from sasa.data.classification.names import printable
from sasa.data.classification.parquet import ImageParquet
from sasa.data.classification.shards import TarShards, expand
from sasa.data.classification.source import Source
from sasa.data.classification.splits import (
    HELD_OUT_NAMES,
    TRAIN_NAMES,
    Files,
    files_in,
    find_files,
    split,
    split_folder,
    sub_folders,
)
from sasa.data.images import is_image
from sasa.errors import DataError

# (training, held-out or None where the data has no such split)
Splits = tuple[Source, Source | None]

LOOKED_FOR = (
    "a folder for each class (or train/ and val/ of them), *.parquet, *.tar shards, cifar-10-batches-py/, "
    "cifar-100-python/, MNIST/raw/ and FashionMNIST/raw/"
)


def open_splits(data: str, held_out: float, seed: int) -> tuple[Source, Source]:
    """The training images and the held-out images of a data set.

    Args:
        data: "digits"; or a folder: of class folders, of parquet files as Hugging Face publishes them, of WebDataset's
            tar files, or the root that torchvision downloaded CIFAR-10, CIFAR-100, MNIST or Fashion-MNIST to; or one
            parquet or tar file; or a pattern of tar files, `DIR/train-{0000..0012}.tar`. Folders may hold train/ and
            val/ (or validation/, test/), or files with these words in their names.
        held_out: the fraction held out, drawn class by class with `seed`, where the data has no split of its own.
        seed: of that draw.

    Raises:
        DataError: nothing there, or not what was expected; names the path.
    """
    train, other = _open(data)
    return (train, other) if other is not None else split(train, held_out, seed)


def _open(data: str) -> Splits:
    if data == "digits":
        return Digits(), None
    root = Path(data).expanduser()
    if "{" in data and not root.exists():
        return TarShards(expand(data)), None
    if root.is_file() and root.suffix == ".parquet":
        return ImageParquet([root]), None
    if root.is_file() and root.suffix == ".tar":
        return TarShards([root]), None
    if not root.is_dir():
        raise DataError(
            f"{data!r} is no folder, no parquet or tar file, no pattern of tar files, and not the built-in set 'digits'"
        )
    try:
        return _open_folder(root)
    except OSError as error:
        raise DataError(f"{printable(error.filename or root)} cannot be read: {error.strerror}") from error


def _open_folder(root: Path) -> Splits:
    found = {**_torchvision_sets(root)}
    for suffix, opener in ((".parquet", _open_parquet), (".tar", _open_shards)):
        files = find_files(root, suffix)
        if files[0]:
            found[f"{suffix[1:]} files"] = partial(opener, files)
    kinds = [*found, *(["class folders"] if found and _has_classes(root) else [])]
    if len(kinds) > 1:
        raise DataError(
            f"{root} holds {' and '.join(kinds)}: give the path of the one that is meant, or move the others away"
        )
    for opener in found.values():
        return opener()
    return _open_class_folders(root)


def _open_parquet(files: Files) -> Splits:
    train, other = files
    source = ImageParquet(train)
    return source, ImageParquet(other, source.classes) if other else None


def _open_shards(files: Files) -> Splits:
    train, other = files
    source = TarShards(train)
    return source, TarShards(other, source.classes) if other else None


def _torchvision_sets(root: Path) -> dict[str, Callable[[], Splits]]:
    """Openers by name of the sets below torchvision's root, or of the one that `root` itself is."""
    found: dict[str, Callable[[], Splits]] = {}
    for folder in (root, *(root / name for name in LAYOUTS)):
        if folder.is_dir() and (layout := layout_of(folder)):
            found[folder.absolute().name] = partial(open_cifar, folder, layout)
    for folder in (root, root / "raw", root / "MNIST" / "raw", root / "FashionMNIST" / "raw"):
        if folder.is_dir() and holds_idx(folder):
            place = folder.absolute()  # the folder may have been given as "."
            name = place.parent.name if place.name == "raw" else place.name
            found[name] = partial(open_idx, folder, name)
    return found


def _has_classes(root: Path) -> bool:
    """Whether there is an image in one of the first class folders: archives often lie beside what they held."""
    folders = sub_folders(split_folder(root, TRAIN_NAMES) or root)
    return any(is_image(path) for folder in folders[:3] for path in islice(folder.iterdir(), 100))


def _open_class_folders(root: Path) -> Splits:
    if not any(root.iterdir()):
        raise DataError(f"{root} is empty")
    train, other = split_folder(root, TRAIN_NAMES), split_folder(root, HELD_OUT_NAMES)
    try:
        source = ClassFolders(train or root)
    except NoImagesError as error:
        if packed := [p for suffix in (".tar.gz", ".tgz", ".zip") for p in files_in(root, suffix)]:
            raise DataError(
                f"{printable(packed[0])} is compressed: unpack it; shards must be plain .tar files"
            ) from error
        raise DataError(f"{error}; looked for {LOOKED_FOR}") from error
    return source, ClassFolders(other, source.classes) if train and other else None
