"""Recognising the format of a data set by its contents, and sentences about data in other formats."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sasa.data.directories import files_in, has_images, sub_directories
from sasa.data.images import SUFFIXES
from sasa.data.text import listed, printable
from sasa.errors import DataError

Opener = TypeVar("Opener")

_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip", ".7z", ".rar")
_FOREIGN = re.compile(
    r"\.(npz|npy|mat|h5|hdf5|bin|pth?|pkl|arrow|tfrecords?|tfrecord-\d+-of-\d+|mdb|rec|xlsx|dcm|nii|mp4|avi|heic)(\.gz)?$"
    r"|ubyte(\.gz)?$"
)
# Tools whose files of boxes are known by their keys, in this order.
_TOOLS = {
    "LabelMe": rb'"shapes"\s*:',
    "VIA": rb'"(shape_attributes|regions)"\s*:',
    "CreateML": rb'"coordinates"\s*:',
    "Supervisely": rb'"(classTitle|objects)"\s*:',
    "Label Studio": rb'"(annotations|completions)"\s*:\s*\[\s*\{\s*("id"\s*:\s*\d+\s*,\s*)?("completed_by"|"result")',
    "CVAT": rb"<annotations\b",
}
_LEADING_WORDS = re.compile(r"([^\W\d_]{2,}(?:[ _-]?[^\W\d_]+)*)[ ._-]*\(?\d")
LOOKED_AT = 1000  # images whose names are compared
MOST_READ = 1 << 16  # bytes of a file that are read to recognise the tool that wrote it


def recognise(path: Path, looks: Iterable[Callable[[Path], dict[str, Opener]]]) -> dict[str, Opener]:
    """Return openers, by the name of the format, of all formats whose `look` finds them in a path."""
    return {kind: opener for look in looks for kind, opener in look(path).items()}


def check_single(root: Path, kinds: Sequence[str]) -> None:
    """Raise a `DataError` if a directory holds several formats."""
    if len(kinds) > 1:
        raise DataError(
            f"{printable(root)} holds {' and '.join(kinds)}: give the path of the one that is meant, or move the "
            "others away"
        )


def single(root: Path, what: str, paths: Sequence[Path], advice: str = "give the path of one") -> Path:
    """Return the only one of the paths below a directory; raises `DataError` with the advice if there are more."""
    if len(paths) > 1:
        names = listed((printable(path.relative_to(root)) for path in paths), 3)
        raise DataError(f"{printable(root)} holds {len(paths)} {what} ({names}): {advice}")
    return paths[0]


def hint(path: Path) -> str:
    """Return what to do with a file or directory in no known format, or ""."""
    files = list(_files(path))
    if file := next((file for file in files if file.name.lower().endswith(_COMPRESSED)), None):
        return f"{printable(file)} is compressed: unpack it; shards must be plain .tar files"
    if file := next((file for file in files if _FOREIGN.search(file.name.lower())), None):
        return (
            f"{printable(file)} is a format that is not read: write the images into a directory for each class, or "
            "into parquet files"
        )
    for file in files:
        if file.suffix.lower() in (".json", ".xml") and (tool := tool_of(file)):
            return f"{printable(file)} is {tool}'s format, which is not read: export it as COCO, Pascal VOC or YOLO"
    return _labels_in_names(path)


def tool_of(file: Path) -> str | None:
    """Return the name of the tool that wrote an annotation file, if it is one whose format is not read."""
    with file.open("rb") as opened:
        start = opened.read(MOST_READ)
    return next((tool for tool, keys in _TOOLS.items() if re.search(keys, start)), None)


def _files(path: Path) -> Iterator[Path]:
    """The file itself, or the files of a directory and two levels below it."""
    if not path.is_dir():
        yield path
        return
    inner = sub_directories(path)
    for directory in (path, *inner, *(deep for d in inner for deep in sub_directories(d))):
        yield from files_in(directory, "")


def _labels_in_names(path: Path) -> str:
    """Describe names such as cat.0.jpg and dog.1.jpg, whose first words may be labels."""
    if not path.is_dir():
        return ""
    for directory in filter(has_images, (path, *sub_directories(path))):
        names = (path.name for path in islice(files_in(directory, *SUFFIXES), LOOKED_AT))
        words = {match[1] for name in names if (match := _LEADING_WORDS.match(name))}
        if len(words) > 1:
            return (
                f"names of files in {printable(directory)} begin with {listed(sorted(words), 3)}: if these are labels, "
                "make a directory for each, or a table metadata.csv with the columns file_name,label"
            )
    return ""
