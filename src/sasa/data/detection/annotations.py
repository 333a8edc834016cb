"""What is known of the objects in an image, and what was wrong with it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Something in annotations that was left out or changed.

    Args:
        file: the annotation file.
        image: the image as that file calls it; "" where the problem is not one image's.
        id: the annotation's id in the file (of VOC: which object of the file, from 1); None where there is none.
        what: the rest of the sentence.
    """

    file: str
    image: str
    id: str | int | None
    what: str

    def __str__(self) -> str:
        of = f" of {self.image}" if self.image else ""
        subject = self.image if self.id is None else f"annotation {self.id}{of}"
        return f"{self.file}: {subject} {self.what}" if subject else f"{self.file}: {self.what}"


@dataclass
class Targets:
    """The objects of one image.

    Args:
        boxes: (N, 4), float32: left, top, right, bottom in pixels, the image being upright.
        labels: (N,), int64: indices into the source's `classes`.
        crowd: (N,), bool: regions that are neither to be learned nor to be counted as background.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> "Targets":
        """Some of the objects, by a mask or by their places."""
        return Targets(self.boxes[rows], self.labels[rows], self.crowd[rows])

    def pin_memory(self) -> "Targets":
        """In memory that a GPU copies from on its own."""
        return Targets(self.boxes.pin_memory(), self.labels.pin_memory(), self.crowd.pin_memory())

    def to(self, device: torch.device) -> "Targets":
        """On the device."""
        boxes, labels, crowd = (t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.crowd))
        return Targets(boxes, labels, crowd)

    # A tensor goes from a worker to the training process as an open file: three for each image of a batch would
    # soon be more than a process may have. Arrays go as bytes.
    def __getstate__(self) -> dict[str, Any]:
        return {name: tensor.cpu().numpy() for name, tensor in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: torch.from_numpy(array) for name, array in state.items()})


class TargetTable:
    """The targets of many images, in four arrays.

    Args:
        images: (M,): the image of each object, 0 to `count` - 1, in any order.
        boxes, labels, crowd: (M, 4), (M,), (M,), as in `Targets`.
        count: images, with and without objects.
    """

    def __init__(
        self, images: np.ndarray, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, count: int
    ) -> None:
        order = np.argsort(images, kind="stable")
        self._boxes, self._labels, self._crowd = boxes[order], labels[order], crowd[order]
        self._firsts = np.searchsorted(images[order], np.arange(count + 1))

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, image: int) -> Targets:
        rows = slice(*self._firsts[[image, image + 1]])
        boxes = torch.tensor(self._boxes[rows], dtype=torch.float32)  # copies: nobody changes the table
        labels = torch.tensor(self._labels[rows], dtype=torch.int64)
        return Targets(boxes, labels, torch.tensor(self._crowd[rows], dtype=torch.bool))

    def seen(self) -> set[int]:
        """The labels of all objects to be learned."""
        return set(np.unique(self._labels[~self._crowd]).tolist())
