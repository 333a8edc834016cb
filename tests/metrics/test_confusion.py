"""Scores of classes from a confusion matrix."""

import pytest
import torch

from sasa.errors import ArgumentError
from sasa.metrics.confusion import ClassScore, Confusion, count_pairs, most_confused, pairs, per_class

LABELS = ["cats", "dogs", "owls"]
MATRIX = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
EITHER = pytest.mark.parametrize("matrix", [MATRIX, MATRIX.to_sparse()], ids=["dense", "sparse"])


@EITHER
def test_per_class(matrix):
    assert per_class(matrix, LABELS) == [
        ClassScore("cats", 8, 7, 6 / 8, 6 / 7),
        ClassScore("dogs", 4, 5, 3 / 4, 3 / 5),
        ClassScore("owls", 0, 0, None, None),
    ]


@EITHER
def test_most_confused(matrix):
    found = [Confusion("cats", "dogs", 2, 0.25), Confusion("dogs", "cats", 1, 0.25)]
    assert most_confused(matrix, LABELS, 5) == found
    assert most_confused(matrix, LABELS, 1) == found[:1]
    assert most_confused(torch.eye(3, dtype=torch.int64), LABELS, 5) == []
    assert matrix.to_dense().diagonal().tolist() == [6, 3, 0], "the matrix is unchanged"


def test_equal_pairs_keep_the_order_of_the_matrix():
    matrix = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
    names = [pair.truth + pair.answer for pair in most_confused(matrix, ["a", "b", "c"], 9)]
    assert names == ["ac", "ba", "cb", "ab", "bc", "ca"]


def test_counting_pairs():
    truth, answer = torch.tensor([0, 2, 0, 0, 2]), torch.tensor([1, 2, 1, 0, 2])
    counted = count_pairs(truth, answer, 3)
    assert counted.to_dense().tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 2]]
    assert [part.tolist() for part in pairs(counted)] == [[0, 0, 2], [0, 1, 2], [1, 2, 2]]
    assert count_pairs(truth[:0], answer[:0], 3).to_dense().tolist() == [[0] * 3] * 3


def test_a_hundred_thousand_classes_take_the_memory_of_the_images():
    count = 100_000  # a dense matrix would fill 80 GB
    truth = torch.arange(count)
    labels = [str(number) for number in range(count)]
    counted = count_pairs(truth, truth.clamp_max(count - 2), count)
    assert len(pairs(counted).images) == count
    assert most_confused(counted, labels, 5) == [Confusion("99999", "99998", 1, 1.0)]
    assert per_class(counted, labels)[-2:] == [
        ClassScore("99998", 1, 2, 1.0, 0.5),
        ClassScore("99999", 1, 0, 0.0, None),
    ]


def test_a_matrix_of_another_size():
    with pytest.raises(ArgumentError, match=r"confusion is \(3, 3\), but there are 2 labels"):
        per_class(MATRIX, LABELS[:2])
