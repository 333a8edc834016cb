"""Sentences about a data set that was opened: classes with counts, splits, and images that are in both splits."""

from collections.abc import Sequence
from pathlib import Path

from sasa.data.directories import image_names
from sasa.data.source import FileSource, ImageSource
from sasa.data.text import listed, look_alike, printable
from sasa.errors import DataError

# Images of both splits that are compared when a data set is opened: about a second.
MOST_COMPARED = 20_000
MOST_SHOWN = 10  # classes whose counts are printed


def check_fraction(held_out: float) -> None:
    """Raise a `DataError` unless images can be held out of data that has no split of its own."""
    if not 0 < held_out < 1:
        raise DataError(
            f"the data has no held-out images of its own: held_out must be above 0 and below 1, got {held_out:g}"
        )


def describe_split(
    title: str, where: str, source: ImageSource, counts: Sequence[int], things: tuple[str, str] | None = None
) -> list[str]:
    """Sentences about one split: images and classes with counts, and classes without any.

    Args:
        title: "training" or "held-out".
        where: the path that the split was read from.
        source: the images.
        counts: of each class.
        things: singular and plural of the objects that are counted; None for images.
    """
    named = list(zip(source.classes, counts, strict=True))
    shown = sorted(named, key=lambda pair: -pair[1]) if len(named) > MOST_SHOWN else named
    of = f"{_count(sum(counts), *things)} of " if things else ""
    images, classes = _count(len(source), "image", "images"), _count(len(named), "class", "classes")
    listing = listed((f"{name} {count}" for name, count in shown), MOST_SHOWN)
    sentences = [f"{title}: {images}, {of}{classes} ({listing}), from {where}"]
    sentences += look_alike(source.classes) if title == "training" else []
    if absent := [name for name, count in named if not count]:
        sentences.append(f"{title}: no {things[1] if things else 'images'} of {listed(absent)}")
    return sentences


def describe_unlisted(*sources: FileSource | None) -> list[str]:
    """Describe the images beside those of the sources that are in none of them, in a sentence if there are any."""
    used: dict[Path, set[str]] = {}
    for source in filter(None, sources):
        for directory, names in source.names_by_directory().items():
            used.setdefault(directory, set()).update(names)
    unlisted = {directory: len({*image_names(directory)} - names) for directory, names in used.items()}
    where = listed((printable(directory) for directory, count in unlisted.items() if count), 3)
    return [f"not used: {sum(unlisted.values())} images in {where} that are in neither split"] if where else []


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def describe_duplicates(train: ImageSource, held_out: ImageSource) -> list[str]:
    """Describe images that are in both splits, in a sentence if there are any or too many images to compare."""
    many = len(train) + len(held_out) > MOST_COMPARED
    pairs = _same_files(train, held_out) if many else duplicates(train, held_out)
    if not pairs:
        return [f"not compared: whether images are in both splits (more than {MOST_COMPARED} images)"] if many else []
    first, second = pairs[0]
    return [
        f"the same image is in both splits: {len(pairs)} of the {len(held_out)} held-out images are training images, "
        f"{held_out.name(second)} is {train.name(first)}"
    ]


def _same_files(first: ImageSource, second: ImageSource) -> list[tuple[int, int]]:
    """(index in `first`, index in `second`) of the images of `second` whose file is also in `first`, by their paths."""
    paths = list(second.resolved_paths())
    wanted = set(paths)
    known = {path: index for index, path in enumerate(first.resolved_paths()) if path in wanted}
    return [(known[path], index) for index, path in enumerate(paths) if path in known]


def duplicates(first: ImageSource, second: ImageSource) -> list[tuple[int, int]]:
    """(index in `first`, index in `second`) of the images of `second` whose encoded bytes are also in `first`."""
    known: dict[bytes, int] = {}
    for index in range(len(first)):
        if key := first.fingerprint(index):
            known.setdefault(key, index)
    found = ((known.get(second.fingerprint(index) or b""), index) for index in range(len(second)))
    return [(one, other) for one, other in found if one is not None]
