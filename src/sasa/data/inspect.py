"""Report on a data set: format, splits, classes with counts, sizes of images, problems, images in both splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sasa.data.classification import Source, open_splits
from sasa.data.detection.open import is_detection_data, open_detection_splits
from sasa.data.detection.source import ImageFiles
from sasa.data.source import ImageSource
from sasa.errors import DataError

DARK = 16  # of 255; 12 bits in files of 16 bits end there


@dataclass(frozen=True)
class Report:
    """Findings about a data set, as sentences."""

    task: str  # "classification" or "detection"
    findings: list[str]  # splits and classes, unused files
    sizes: list[str]  # one for each split
    problems: list[str]  # annotations and images that cannot be used
    sources: tuple[Source, Source] | tuple[ImageFiles, ImageFiles]  # training images and held-out images

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the images as plain values for JSON, with counts of each class by split."""
        counts = {
            split: dict(zip(source.classes, source.counts(), strict=True))
            for split, source in zip(("train", "held_out"), self.sources, strict=True)
        }
        sentences = {"findings": self.findings, "sizes": self.sizes, "problems": self.problems}
        return {"task": self.task, "classes": self.sources[0].classes, "counts": counts, **sentences}


def inspect(data: str, held_out: float = 0.2, seed: int = 0, images: int = 1000) -> Report:
    """Open a data set as training does, and read some of its images.

    Args:
        data: a directory, file or name, as for training.
        held_out: the fraction held out, where the data has no split of its own.
        seed: seed of that draw.
        images: how many of each split are read, evenly spread, for their sizes and to find damaged ones.

    Raises:
        DataError: it cannot be opened.
    """
    detection = is_detection_data(data)
    sources = open_detection_splits(data, held_out, seed) if detection else open_splits(data, held_out, seed)
    findings = [sentence for source in sources for sentence in source.description]
    problems = [str(p) for source in sources if isinstance(source, ImageFiles) for p in source.problems]
    sizes = []
    for title, source in zip(("training", "held-out"), sources, strict=True):
        sentence, damaged = _read_some(title, source, images)
        sizes.append(sentence)
        problems += damaged
    return Report(
        "detection" if detection else "classification", findings, sizes, list(dict.fromkeys(problems)), sources
    )


def spread(source: ImageSource, count: int) -> Sequence[int]:
    """Indices of so many images of a source, evenly spread; all if it has no more."""
    step = len(source) / min(count, len(source))
    return [int(place * step) for place in range(min(count, len(source)))]


def _read_some(title: str, source: ImageSource, count: int) -> tuple[str, list[str]]:
    """(a sentence about sizes, problems)."""
    sizes, dark, problems, indices = [], [], [], spread(source, count)
    for index in indices:
        try:
            image = source.read(index, channels=1)
        except DataError as error:
            problems.append(str(error))
            continue
        sizes.append(image.size)
        if np.asarray(image).max() < DARK:
            dark.append(index)
    if dark:
        problems.append(
            f"{len(dark)} of {len(indices)} {title} images are nearly black, without a pixel above {DARK} of 255, such "
            f"as {source.name(dark[0])}: 16 bits are scaled from 0 to 65535"
        )
    if not sizes:
        return f"{title}: none of {len(indices)} images can be read", problems
    widths, heights = (sorted(sides) for sides in zip(*sizes, strict=True))
    middle = len(sizes) // 2
    same = f"all {widths[0]} x {heights[0]}"
    varied = (
        f"{widths[0]} to {widths[-1]} wide (median {widths[middle]}), "
        f"{heights[0]} to {heights[-1]} high (median {heights[middle]})"
    )
    looked = "" if len(indices) == len(source) else f", {len(indices)} of {len(source)} images read"
    return f"{title}: {same if len(set(sizes)) == 1 else varied} pixels{looked}", problems
