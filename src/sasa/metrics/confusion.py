"""The confusion matrix: recall and precision of each class, and the pairs of classes confused most often.

A confusion matrix is (C, C) integers for C classes: row the true class, column the network's first answer.
"""

from dataclasses import dataclass

from torch import Tensor

from sasa.errors import ArgumentError


@dataclass(frozen=True)
class ClassScore:
    """One class. What cannot be told, for want of images or of answers, is None.

    Args:
        label: its name.
        images: how many there were of it.
        answers: how many images the network took for it.
        recall: share of its images that were recognised: the accuracy of the class.
        precision: share of the answers that were right.
    """

    label: str
    images: int
    answers: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Confusion:
    """`images` of class `truth` were taken for `answer`: `share` of the images of that class."""

    truth: str
    answer: str
    images: int
    share: float


def per_class(confusion: Tensor, labels: list[str]) -> list[ClassScore]:
    """Recall and precision of each class, in the order of the labels."""
    check_labels(confusion, labels)
    right, truths, answers = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return [
        ClassScore(label, of, said, hits / of if of else None, hits / said if said else None)
        for label, hits, of, said in zip(labels, right, truths, answers, strict=True)
    ]


def most_confused(confusion: Tensor, labels: list[str], count: int) -> list[Confusion]:
    """At most `count` pairs of classes that were taken for each other, those with the most images first."""
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
    """Refuse a matrix that is not (C, C) for C labels.

    Raises:
        ArgumentError: quotes both.
    """
    if tuple(confusion.shape) != (len(labels), len(labels)):
        raise ArgumentError(f"confusion is {tuple(confusion.shape)}, but there are {len(labels)} labels")
