"""Recall and precision of each class, and the pairs of classes confused most often, from a confusion matrix.

A confusion matrix is (C, C) counts for C classes: rows are true classes, columns predicted classes.
"""

from dataclasses import dataclass

from torch import Tensor

from sasa.errors import ArgumentError


@dataclass(frozen=True)
class ClassScore:
    """The score of one class.

    Args:
        label: name of the class.
        images: number of images of the class.
        answers: number of images predicted to be of the class.
        recall: fraction of the images of the class that were predicted correctly; None without images.
        precision: fraction of the predictions that were correct; None without predictions.
    """

    label: str
    images: int
    answers: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Confusion:
    """A pair of confused classes: `images` of class `truth`, a `share` of all, were predicted to be `answer`."""

    truth: str
    answer: str
    images: int
    share: float


def per_class(confusion: Tensor, labels: list[str]) -> list[ClassScore]:
    """Score each class, in the order of the labels."""
    check_labels(confusion, labels)
    right, truths, answers = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return [
        ClassScore(label, of, said, hits / of if of else None, hits / said if said else None)
        for label, hits, of, said in zip(labels, right, truths, answers, strict=True)
    ]


def most_confused(confusion: Tensor, labels: list[str], count: int) -> list[Confusion]:
    """List at most `count` pairs of confused classes, those with the most images first."""
    check_labels(confusion, labels)
    wrong = confusion.clone()
    wrong.fill_diagonal_(0)
    values, places = wrong.flatten().sort(descending=True, stable=True)
    totals = confusion.sum(1).tolist()
    found = []
    for images, place in zip(values[:count].tolist(), places[:count].tolist(), strict=True):
        truth, answer = divmod(place, len(labels))
        if images:
            found.append(Confusion(labels[truth], labels[answer], images, images / totals[truth]))
    return found


def check_labels(confusion: Tensor, labels: list[str]) -> None:
    """Check that a matrix is (C, C) for C labels.

    Raises:
        ArgumentError: another size; quotes both values.
    """
    if tuple(confusion.shape) != (len(labels), len(labels)):
        raise ArgumentError(f"confusion is {tuple(confusion.shape)}, but there are {len(labels)} labels")
