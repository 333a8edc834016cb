"""Recall and precision of each class, and the pairs of classes confused most often, from a confusion matrix.

A confusion matrix is (C, C) counts for C classes: rows are true classes, columns predicted classes. A sparse matrix
holds only the pairs that occurred, at most one for each image: at 10,000 classes a dense one would fill 800 MB. The
functions here take both.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sasa.errors import ArgumentError

MOST_DENSE = 1000  # classes whose matrix is written as a table; of more, as a list of the pairs that occurred


@dataclass(frozen=True)
class ClassScore:
    """The score of one class."""

    label: str  # name of the class
    images: int  # number of images of the class
    answers: int  # number of images predicted to be of the class
    recall: float | None  # fraction of the images of the class that were predicted correctly; None without images
    precision: float | None  # fraction of the predictions that were correct; None without predictions


@dataclass(frozen=True)
class Confusion:
    """A pair of confused classes: `images` of class `truth`, a `share` of all, were predicted to be `answer`."""

    truth: str
    answer: str
    images: int
    share: float


class Pairs(NamedTuple):
    """The pairs of classes that occurred, ordered by row and column: (P,) each, int64, on the CPU."""

    truth: Tensor
    answer: Tensor
    images: Tensor


def count_pairs(truth: Tensor, answer: Tensor, num_classes: int) -> Tensor:
    """Count pairs of true and predicted classes, (N,) each, int64: (C, C), int64, sparse, coalesced, on the CPU."""
    cells, images = torch.unique(truth.cpu() * num_classes + answer.cpu(), return_counts=True)
    places = torch.stack([cells // num_classes, cells % num_classes])
    with torch.sparse.check_sparse_tensor_invariants():  # chosen, because torch 2.11 warns where it is not
        return torch.sparse_coo_tensor(places, images, (num_classes, num_classes), is_coalesced=True)


def pairs(confusion: Tensor) -> Pairs:
    """List the pairs that occurred in a matrix, dense or sparse."""
    sparse = confusion.cpu().to_sparse().coalesce()
    truth, answer = sparse.indices()
    return Pairs(truth, answer, sparse.values())


def per_class(confusion: Tensor, labels: list[str]) -> list[ClassScore]:
    """Score each class, in the order of the labels."""
    check_labels(confusion, labels)
    truth, answer, images = pairs(confusion)
    right = truth == answer
    columns = (_sums(truth[right], images[right], labels), _sums(truth, images, labels), _sums(answer, images, labels))
    return [
        ClassScore(label, of, said, hits / of if of else None, hits / said if said else None)
        for label, hits, of, said in zip(labels, *columns, strict=True)
    ]


def most_confused(confusion: Tensor, labels: list[str], count: int) -> list[Confusion]:
    """List at most `count` pairs of confused classes, those with the most images first."""
    check_labels(confusion, labels)
    truth, answer, images = pairs(confusion)
    totals, wrong = _sums(truth, images, labels), (truth != answer).nonzero()[:, 0]
    first = wrong[images[wrong].argsort(descending=True, stable=True)[:count]]
    return [
        Confusion(labels[true], labels[predicted], number, number / totals[true])
        for true, predicted, number in zip(*(part[first].tolist() for part in (truth, answer, images)), strict=True)
    ]


def _sums(classes: Tensor, images: Tensor, labels: list[str]) -> list[int]:
    """The number of images of each class."""
    return torch.zeros(len(labels), dtype=torch.int64).index_add_(0, classes, images).tolist()


def check_labels(confusion: Tensor, labels: list[str]) -> None:
    """Raise an `ArgumentError` unless a matrix is (C, C) for C labels."""
    if tuple(confusion.shape) != (len(labels), len(labels)):
        raise ArgumentError(f"confusion is {tuple(confusion.shape)}, but there are {len(labels)} labels")
