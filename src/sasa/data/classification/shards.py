"""WebDataset: images and labels in tar files, read by their place without unpacking anything."""

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from tarfile import TarInfo

import numpy as np
from PIL import Image

from sasa.data.classification.handles import Handles
from sasa.data.classification.names import NameTable, printable
from sasa.data.classification.source import Source, check_labels
from sasa.data.classification.tar_index import scan
from sasa.data.images import SUFFIXES, read_image
from sasa.errors import DataError

IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
PICKLES = ("pyd", "pkl", "pickle", "pth", "pt")
LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json member
MOST_SHARDS = 100_000  # of a pattern
# The key of a sample ends at the first dot of the file name; the rest says what the member is.
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


class TarShards(Source):
    """Tar files whose members with the same key (`a/0017.jpg`, `a/0017.cls`) make a sample.

    A sample has one image, and its label as text in .cls, or as "label" or "cls" of the object in .json; other
    members are passed over. Opening reads the headers of all files once, about 45,000 a second: a minute for the 2.6
    million of ImageNet, where the disk is as fast. About 20 bytes and the key of each sample are kept; reading a
    image then is one read at its place, so any order is possible. `groups` are the files.

    Args:
        paths: the tar files; images are ordered as they are in them.
        classes: names to number by; by default the lines of classes.txt beside the files, or numbers.

    Raises:
        DataError: a file that is damaged, cut off or empty, a sample without image or label; names both.
    """

    def __init__(self, paths: list[Path], classes: list[str] | None = None) -> None:
        self.paths, self._handles = paths, Handles()
        labels, places, groups, keys = [], [], [], []
        for number, path in enumerate(paths):
            found = list(_samples(path, self._handles))
            if not found:
                raise DataError(f"{printable(path)} holds no samples: expected members such as 0017.jpg and 0017.cls")
            labels += [label for _, _, label in found]
            places += [(number, offset, size) for _, (offset, size), _ in found]
            keys += [key for key, _, _ in found]
            groups += [number] * len(found)
        self.labels, self.groups = labels, groups
        self._places, self._keys = np.array(places, dtype=np.int64), NameTable(keys)
        self.classes = check_labels(printable(paths[0].parent), labels, classes or _class_names(paths[0].parent))

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """The image of sample `index`."""
        shard, offset, size = self._places[index].tolist()
        content = self._handles.read(self.paths[shard], offset, size)
        return read_image(content, self.name(index), channels)

    def name(self, index: int) -> str:
        """The tar file and the sample's key."""
        return f"{printable(self.paths[self._places[index, 0]])} sample {printable(self._keys[index])!r}"


def _samples(path: Path, handles: Handles) -> Iterator[tuple[str, tuple[int, int], int]]:
    """(key, (offset, size) of the image, label) of each sample of a tar file."""
    for key, members in groupby(_keyed(path), key=lambda keyed: keyed[0]):
        where = f"{printable(path)} sample {printable(key)!r}"
        image, label = None, None
        for _, suffix, member in members:
            if suffix in IMAGES:
                if image:
                    raise DataError(f"{where} has two images, {printable(image.name)} and {printable(member.name)}")
                image = member
            elif suffix == "cls" or (suffix == "json" and not isinstance(label, int)):
                label = _label(where, suffix, member, path, handles)
            elif suffix in PICKLES and label is None:
                label = f"has its label in a pickle (.{suffix}), which could run code: expected .cls or .json"
        if image is None:
            raise DataError(f"{where} has no image: expected a member ending in {', '.join(SUFFIXES)}")
        if not isinstance(label, int):
            raise DataError(f"{where} {label or 'has no label: expected a member ending in .cls or .json'}")
        yield key, (image.offset_data, image.size), label


def _keyed(path: Path) -> Iterator[tuple[str, str, TarInfo]]:
    """(key, suffix, member) of each member that has both, and is no note of the program that wrote it."""
    for member in scan(path):
        match = MEMBER.fullmatch(member.name)
        if match:
            yield match[1], match[2].lower(), member


def _label(where: str, suffix: str, member: TarInfo, path: Path, handles: Handles) -> int:
    if member.size > LARGEST_LABEL:
        raise DataError(f"{where} has a label of {member.size} bytes; expected {LARGEST_LABEL} at most")
    content = handles.read(path, member.offset_data, member.size)
    if suffix == "cls":
        if not re.fullmatch(rb"\s*-?[0-9]{1,18}\s*", content):
            raise DataError(f"{where} has the label {content[:20].decode('utf-8', 'replace')!r}; expected an integer")
        return int(content)
    try:
        label = json.loads(content)
        label = label.get("label", label.get("cls")) if isinstance(label, dict) else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} has a .json member that is no JSON") from error
    if not isinstance(label, int) or isinstance(label, bool):
        raise DataError(f"{where} has a .json member without an integer 'label' or 'cls'")
    return label


def _class_names(folder: Path) -> list[str] | None:
    """The lines of classes.txt beside the shards, or beside their folder train/."""
    path = next((p for p in (folder / "classes.txt", folder.parent / "classes.txt") if p.is_file()), None)
    if path is None:
        return None
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)} cannot be read as UTF-8 text") from error
    while names and not names[-1].strip():
        names.pop()
    names = [name.strip() for name in names]
    if not names or "" in names or len(set(names)) != len(names):
        raise DataError(f"{printable(path)} must have a name on each line, each another")
    return names


def expand(pattern: str) -> list[Path]:
    """The files of a pattern with a range: `train-{0000..0012}.tar` are 13. Digits are kept as many as written.

    Raises:
        DataError: no such range, too many files, or one that is not there.
    """
    match = re.fullmatch(r"([^{}]*)\{([0-9]{1,9})\.\.([0-9]{1,9})\}([^{}]*)", pattern)
    if not match:
        raise DataError(f"{pattern!r} is no pattern of files: expected one range, as in train-{{0000..0012}}.tar")
    before, first, last, after = match.groups()
    count = int(last) - int(first) + 1
    if not 0 < count <= MOST_SHARDS:
        raise DataError(f"{pattern!r} stands for {max(count, 0)} files; expected 1 to {MOST_SHARDS}")
    digits = len(first)
    paths = [Path(f"{before}{n:0{digits}}{after}").expanduser() for n in range(int(first), int(last) + 1)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is not there ({len(missing)} of the {count} files of {pattern!r} are missing)")
    return paths
