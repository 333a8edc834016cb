"""Sentences about data that cannot be read: formats that are not supported, tables, labels in the names of files."""

import re
from itertools import islice
from pathlib import Path

from sasa.data.classification.tables import why_not
from sasa.data.directories import files_in, has_images, sub_directories
from sasa.data.images import SUFFIXES
from sasa.data.text import listed, printable

_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip", ".7z", ".rar")
_FOREIGN = tuple(".npz .npy .mat .h5 .hdf5 .bin .pt .pth .pkl .arrow .tfrecord .tfrecords .mdb .rec .xlsx".split())
_IDX = ("ubyte", "ubyte.gz")
_LEADING_WORDS = re.compile(r"([^\W\d_]{2,}(?:[ _-]?[^\W\d_]+)*)[ ._-]*\(?\d")
LOOKED_AT = 1000  # images whose names are compared


def hint(path: Path) -> str:
    """Return what to do with a file or directory that holds no images with labels in a known format, or ""."""
    inner = sub_directories(path) if path.is_dir() else []
    directories = (
        [path, *inner, *(deep for d in inner for deep in sub_directories(d))] if path.is_dir() else [path.parent]
    )
    for suffixes, advice in (
        (_COMPRESSED, "is compressed: unpack it; shards must be plain .tar files"),
        (
            (*_FOREIGN, *_IDX),
            "is a format that is not read: write the images into a directory for each class, or into parquet files",
        ),
    ):
        files = (file for directory in directories for file in files_in(directory, *suffixes))
        if file := next((file for file in files if path in (file, *file.parents)), None):
            return f"{printable(file)} {advice}"
    return why_not(path) or _labels_in_names(directories) if path.is_dir() else ""


def _labels_in_names(directories: list[Path]) -> str:
    """Describe names such as cat.0.jpg and dog.1.jpg, whose first words may be labels."""
    for directory in filter(has_images, directories):
        names = (path.name for path in islice(files_in(directory, *SUFFIXES), LOOKED_AT))
        words = {match[1] for name in names if (match := _LEADING_WORDS.match(name))}
        if len(words) > 1:
            return (
                f"names of files in {printable(directory)} begin with {listed(sorted(words), 3)}: if these are labels, "
                "make a directory for each, or a table metadata.csv with the columns file_name,label"
            )
    return ""
