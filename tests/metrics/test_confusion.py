"""Scores of classes from a confusion matrix."""

import pytest
import torch

from sasa.errors import ArgumentError
from sasa.metrics.confusion import ClassScore, Confusion, most_confused, per_class

LABELS = ["cats", "dogs", "owls"]
MATRIX = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])


def test_per_class():
    assert per_class(MATRIX, LABELS) == [
        ClassScore("cats", 8, 7, 6 / 8, 6 / 7),
        ClassScore("dogs", 4, 5, 3 / 4, 3 / 5),
        ClassScore("owls", 0, 0, None, None),
    ]


def test_most_confused():
    pairs = [Confusion("cats", "dogs", 2, 0.25), Confusion("dogs", "cats", 1, 0.25)]
    assert most_confused(MATRIX, LABELS, 5) == pairs
    assert most_confused(MATRIX, LABELS, 1) == pairs[:1]
    assert most_confused(torch.eye(3, dtype=torch.int64), LABELS, 5) == []
    assert MATRIX.diagonal().tolist() == [6, 3, 0], "the matrix is unchanged"


def test_a_matrix_of_another_size():
    with pytest.raises(ArgumentError, match=r"confusion is \(3, 3\), but there are 2 labels"):
        per_class(MATRIX, LABELS[:2])
