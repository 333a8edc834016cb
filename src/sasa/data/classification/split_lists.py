"""Class directories whose splits are lists: Food-101's meta/train.txt, CUB's train_test_split.txt, tables of val/."""

import re
from collections.abc import Sequence
from pathlib import Path

from sasa.data.classification.source import Found, Source, Subset
from sasa.data.classification.table_columns import columns_of, read_rows
from sasa.data.classification.table_files import SUFFIXES, read_table
from sasa.data.classification.tables import ImageTable
from sasa.data.directories import Layout, files_in, has_images_below, sub_directories
from sasa.data.image_names import PathIndex, check_found
from sasa.data.naming import HELD_OUT, split_of
from sasa.data.text import not_used, printable, read_lines

# Directories of lists, beside the one of the images.
_DIRECTORIES = frozenset("meta lists list labels splits split partitions annotations imagesets filelists".split())

Lists = dict[str, tuple[Path, list[str]]]  # (file, lines) by split


def labelled_images(layout: Layout, classes: list[str]) -> tuple[Path, ImageTable] | None:
    """Find held-out images that are in no directories of classes, but in a table: val/val_annotations.txt, Test.csv.

    Returns (their directory, the images); None where there are none, or their labels are other classes.
    """
    for split in HELD_OUT:
        for directory in (d for d in layout.unused if split_of(d.name)[0] == split and has_images_below(d)):
            beside = [table for table in files_in(directory.parent, *SUFFIXES) if split_of(table.stem)[0] == split]
            tables = [*files_in(directory, *SUFFIXES), *beside]
            for table in tables:
                rows = read_rows(table)[0] if columns_of(read_table(table, 1)) else []
                if rows and {row.label for row in rows} <= set(classes):
                    places = [directory, *sub_directories(directory), directory.parent]
                    found = ImageTable(table, rows, places, classes)
                    others = (other for other in tables if other != table)
                    unused = not_used(others, f"the labels of {printable(directory)} are those of {printable(table)}")
                    found.description = [*found.description, *unused]
                    return directory, found
    return None


def open_split_lists(source: Source, paths: Sequence[str], places: Sequence[Path]) -> Found | None:
    """Divide images by lists of the images of each split; raises `DataError` if a list names images that are missing.

    A line is the path of an image, also without its suffix and with a label behind it. Of several lists for a split
    (DTD's train1.txt, train2.txt, ...) the first is used, and a sentence names the others.

    Args:
        source: all images.
        paths: of the images, below their directory.
        places: the directory of the images, and those above it; the lists are in one, or in a directory there.
    """
    for place in [p for d in places for p in (d, *(s for s in sub_directories(d) if s.name.lower() in _DIRECTORIES))]:
        lists = _of_cub(place) or _by_split(place)
        held_out = next((split for split in HELD_OUT if split in lists), None)
        if "train" not in lists or held_out is None:
            continue
        index = PathIndex(paths)
        if any(_find(lists[split][1][0], index) is None for split in ("train", held_out)):
            continue  # lists of other images
        named = [_named(*lists[split], places[0], index) for split in ("train", held_out)]
        train, other = ([number for number, path in enumerate(paths) if path in images] for images in named)
        files = [printable(lists[split][0]) for split in ("train", held_out)]
        notes = [f"split by {' and '.join(dict.fromkeys(files))}"]
        used = {lists[split][0] for split in ("train", held_out)}
        others = [p for p in files_in(place, ".txt") if split_of(p.stem)[0] in ("train", held_out) and p not in used]
        notes += not_used(others, "other lists of these splits")
        if both := len({*train} & {*other}):
            notes.append(f"the same image is in both splits: {both} images are on both lists")
        if unlisted := len(paths) - len({*train, *other}):
            notes.append(f"not used: {unlisted} images that are on neither list")
        return Found(Subset(source, train), Subset(source, other), notes, (files[0], files[1]))
    return None


def _by_split(place: Path) -> Lists:
    found: Lists = {}
    for path in files_in(place, ".txt"):
        split = split_of(path.stem)[0]
        if split and split not in found and (lines := read_lines(path)):
            found[split] = path, lines
    return found


def _of_cub(place: Path) -> Lists:
    """Lists of CUB-200-2011: images.txt numbers the images, train_test_split.txt says which are for training."""
    path = place / "train_test_split.txt"
    if not path.is_file() or not (place / "images.txt").is_file():
        return {}
    names, training = _second_words(place / "images.txt"), _second_words(path)
    of = {flag: [name for number, name in names.items() if training.get(number) == flag] for flag in "01"}
    return {split: (path, of[flag]) for split, flag in (("train", "1"), ("test", "0")) if of[flag]}


def _second_words(path: Path) -> dict[str, str]:
    return {number: rest for number, _, rest in (line.partition(" ") for line in read_lines(path))}


def _find(line: str, index: PathIndex) -> str | None:
    """The image that a line names: all of it, or its first word."""
    return index.find(line) or index.find(re.split(r"[\s,]", line)[0])


def _named(path: Path, lines: list[str], directory: Path, index: PathIndex) -> set[str]:
    found = {line: _find(line, index) for line in lines}
    check_found(printable(path), directory, lines, [line for line, image in found.items() if image is None])
    return {image for image in found.values() if image}
