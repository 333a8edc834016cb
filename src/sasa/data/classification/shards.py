"""WebDataset: images and labels in tar files, read by their position in the file, without unpacking."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterator
from itertools import groupby
from pathlib import Path
from tarfile import TarInfo
from typing import BinaryIO

import numpy as np
from PIL import Image

from sasa.data.classification.source import Found, Source, number_labels
from sasa.data.classification.split_files import open_split_files
from sasa.data.images import SUFFIXES, read_image
from sasa.data.source import fingerprint
from sasa.data.text import (
    NameTable,
    check_fetched,
    class_name,
    listed,
    not_used,
    opened,
    printable,
    read_lines,
    read_text,
    repeated,
)
from sasa.errors import DataError
from sasa.files import expand_user

IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
PICKLES = ("pyd", "pkl", "pickle", "pth", "pt")
LABELS = ("cls", "json", "txt")  # suffixes of members, in order of preference
LARGEST_LABEL = 1 << 20  # bytes of a member
LONGEST_NAME = 200  # characters of a class
MOST_SHARDS = 100_000  # of a pattern
# The key of a sample ends at the first dot of the file name; the rest is the type of the member.
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
REFUSED = {
    **dict.fromkeys((tarfile.SYMTYPE, tarfile.LNKTYPE), "a link"),
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE), "a device"),
    tarfile.FIFOTYPE: "a pipe",
}
# Errors that tarfile raises for damaged or malicious headers, with huge sizes or endless chains.
DAMAGE = (tarfile.TarError, ValueError, IndexError, OverflowError, MemoryError, RecursionError)


class TarShards(Source):
    """Tar files whose members with the same key (`a/0017.jpg`, `a/0017.cls`) make a sample.

    A sample has one image, and its label, an integer or the name of a class: as text in .cls, as "label" or "cls" of
    the object in .json, or as text in .txt. Other members, and files without samples, are ignored. Opening reads all
    headers once, about 45,000 a second: a minute for the 2.6 million of ImageNet, if the disk is fast enough. Then an
    image is one read at its offset, so any order is possible. `groups` are the files.

    Args:
        paths: the tar files; images are ordered as they are in them.
        classes: class names in label order; by default the lines of classes.txt beside the files, or beside their
            directory, or the names in the samples, sorted, or numbers.

    Raises:
        DataError: a file is damaged or cut off, all are empty, a sample lacks its image or label (names both), or
            classes.txt beside the files has other names than `classes`.
    """

    def __init__(self, paths: list[Path], classes: list[str] | None = None) -> None:
        self.paths = paths
        labels, places, groups, keys = [], [], [], []
        for number, path in enumerate(paths):
            with opened(path) as file:
                found = list(_samples(path, file))
            labels += [label for _, _, label in found]
            places += [(number, offset, size) for _, (offset, size), _ in found]
            keys += [key for key, _, _ in found]
            groups += [number] * len(found)
        if not labels:
            raise DataError(f"{printable(paths[0])} holds no samples: expected members such as 0017.jpg and 0017.cls")
        filled = set(groups)
        if empty := [printable(path.name) for number, path in enumerate(paths) if number not in filled]:
            self.description = [f"no samples in {listed(empty)} of {printable(paths[0].parent)}"]
        self._places, self._keys, self.groups = np.array(places, dtype=np.int64), NameTable(keys), groups
        names, notes = _class_names(dict.fromkeys(path.parent for path in paths), classes)
        self.description = [*self.description, *notes]
        self.labels, self.classes = number_labels(printable(paths[0].parent), labels, names)

    def read(self, index: int, channels: int = 3) -> Image.Image:
        """Read the image of sample `index`."""
        shard, offset, size = self._places[index].tolist()
        with opened(self.paths[shard]) as file:
            content = _read(file, offset, size)
        return read_image(content, self.name(index), channels)

    def name(self, index: int) -> str:
        """The tar file and the sample's key."""
        return f"{printable(self.paths[self._places[index, 0]])} sample {printable(self._keys[index])!r}"

    def fingerprint(self, index: int) -> bytes | None:
        """Hash of the member."""
        shard, offset, size = self._places[index].tolist()
        with opened(self.paths[shard]) as file:
            return fingerprint(lambda start, part: _read(file, offset + start, part), size)


def look(path: Path) -> dict[str, Callable[[], Found]]:
    """Return openers, by name, of the data in `path`: a tar file, or a directory of them."""
    return open_split_files(path, "tar files", ".tar", TarShards)


def _samples(path: Path, file: BinaryIO) -> Iterator[tuple[str, tuple[int, int], int | str]]:
    """(key, (offset, size) of the image, label) of each sample of a tar file, which is also open as `file`."""
    for key, members in groupby(_keyed(path), key=lambda keyed: keyed[0]):
        where = f"{printable(path)} sample {printable(key)!r}"
        parts = [(suffix, member) for _, suffix, member in members]
        by_suffix, images = dict(parts), [member for suffix, member in parts if suffix in IMAGES]
        if len(images) > 1:
            first, second = (printable(member.name) for member in images[:2])
            raise DataError(f"{where} has two images, {first} and {second}")
        if not images:
            expected = f"expected a member ending in {', '.join(SUFFIXES)}"
            what = "it holds tar files, so unpack it" if "tar" in by_suffix else expected
            raise DataError(f"{where} has no image: {what}")
        if twice := repeated(suffix for suffix, _ in parts if suffix in LABELS):
            raise DataError(f"{where} has two members ending in .{twice[0]}")
        suffix = next((suffix for suffix in LABELS if suffix in by_suffix), None)
        if suffix is None:
            pickled = next((f".{suffix}" for suffix in PICKLES if suffix in by_suffix), None)
            why = f"its label in a pickle ({pickled}), which could run code" if pickled else "no label"
            unpacked = ", or unpack it if its directories are the classes" if "/" in key else ""
            expected = ".cls or .json, or .txt with the name of a class"
            raise DataError(f"{where} has {why}: expected, next to the image, a member ending in {expected}{unpacked}")
        yield key, (images[0].offset_data, images[0].size), _label(where, suffix, by_suffix[suffix], file)


def _keyed(path: Path) -> Iterator[tuple[str, str, TarInfo]]:
    """(key, suffix, member) of each member that has both; hidden files have no key."""
    for member in scan(path):
        match = MEMBER.fullmatch(member.name)
        if match:
            yield match[1], match[2].lower(), member


def _label(where: str, suffix: str, member: TarInfo, file: BinaryIO) -> int | str:
    """Read a label: an integer, or the name of a class."""
    if member.size > LARGEST_LABEL:
        raise DataError(f"{where} has a label of {member.size} bytes; expected {LARGEST_LABEL} at most")
    content = _read(file, member.offset_data, member.size)
    try:
        label = json.loads(content) if suffix == "json" else content.decode().strip()
    except (ValueError, RecursionError) as error:
        kind = "JSON" if suffix == "json" else "UTF-8 text"
        raise DataError(f"{where} has a .{suffix} member that is not {kind}") from error
    if suffix == "json":
        label = label.get("label", label.get("cls")) if isinstance(label, dict) else None
    elif re.fullmatch(r"-?[0-9]{1,18}", label):
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise DataError(f"{where} has a .json member without an integer or a word as 'label' or 'cls'")
    if isinstance(label, str) and not (label.strip() and len(label) <= LONGEST_NAME and label.isprintable()):
        raise DataError(f"{where} has the label {label[:20]!r}; expected an integer or the name of a class")
    return label


def _class_names(directories: Collection[Path], classes: list[str] | None) -> tuple[list[str] | None, list[str]]:
    """Return (class names, sentences about lists that are not used).

    They are `classes`, or the lines of classes.txt in the directories of the shards, or without one beside them.

    Raises:
        DataError: a list has a blank or repeated line, or one in a directory of the shards names other classes.
    """
    places = dict.fromkeys([*directories, *(directory.parent for directory in directories)])
    lists = [path for place in places if (path := place / "classes.txt").is_file()]
    names = classes or (_read_names(lists[0]) if lists else None)
    others = [path for path in lists if [class_name(line) for line in read_lines(path)] != names]
    first = "the training images" if classes or not lists else printable(lists[0])
    if other := next((path for path in others if path.parent in directories), None):
        raise DataError(f"{printable(other)} names other classes than {first}, or in another order")
    return names, [] if classes else not_used(others, f"the classes are those of {first}")


def _read_names(path: Path) -> list[str]:
    names = [class_name(name) for name in read_text(path).rstrip().splitlines()]
    if not names or "" in names or repeated(names):
        raise DataError(f"{printable(path)} must have a name on each line, each different")
    return names


def expand(pattern: str) -> list[Path]:
    """List the files of a pattern with a range: `train-{0000..0012}.tar` stands for 13. Leading zeros are kept.

    Raises:
        DataError: not exactly one range, a range of too many files, or a missing file.
    """
    match = re.fullmatch(r"([^{}]*)\{([0-9]{1,9})\.\.([0-9]{1,9})\}([^{}]*)", pattern)
    if not match:
        raise DataError(f"{pattern!r} is not a pattern of files: expected one range, as in train-{{0000..0012}}.tar")
    before, first, last, after = match.groups()
    count = int(last) - int(first) + 1
    if not 0 < count <= MOST_SHARDS:
        raise DataError(f"{pattern!r} stands for {max(count, 0)} files; expected 1 to {MOST_SHARDS}")
    paths = [expand_user(f"{before}{n:0{len(first)}}{after}") for n in range(int(first), int(last) + 1)]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing ({len(missing)} of the {count} files of {pattern!r})")
    return paths


def scan(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar file, in order; only headers are read.

    Raises:
        DataError: it is not a tar file, is damaged or cut off, or holds links, devices, pipes or sparse files.
    """
    try:
        if _block(path, 0).startswith(b"\x1f\x8b"):
            raise DataError(f"{printable(path)} is compressed: images are read by their place, from a plain tar file")
        with tarfile.open(path, "r:") as tar:
            for member in iter(tar.next, None):
                _check(path, member)
                if not member.isdir():
                    yield member
                tar.members.clear()  # otherwise tarfile keeps them all  # pyright: ignore[reportAttributeAccessIssue]
            end = tar.offset
        # tarfile takes any invalid header for the end of the file. A complete file has zeros there.
        if _block(path, end) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no header, and no mark of its end, at byte {end}")
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except DAMAGE as error:
        check_fetched(printable(path), _block(path, 0))
        raise DataError(f"{printable(path)} is not a whole tar file: {str(error) or type(error).__name__}") from error


def _check(path: Path, member: tarfile.TarInfo) -> None:
    if member.size < 0:  # a negative size would move backwards, in an endless loop
        raise tarfile.ReadError(f"a size of {member.size} bytes at byte {member.offset}")
    kind = "a sparse file" if member.issparse() else REFUSED.get(member.type)
    if kind:
        raise DataError(f"{printable(path)} has {kind} named {printable(member.name)!r}: only whole files are read")


def _block(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read `size` bytes of a file from `offset`; raises `DataError` if it ends earlier."""
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        missing = f"{size - len(content)} of the {size} bytes at {offset} are missing"
        raise DataError(f"{printable(file.name)} was cut off: {missing}")
    return content
