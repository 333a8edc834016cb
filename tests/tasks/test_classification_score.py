"""The score of a classifier: from batches, at few and at many classes, and as JSON."""

import json

import pytest
import torch
from torch import nn

from sasa.data.classification.batch import Batch
from sasa.tasks.classification.evaluation import ClassificationEvaluation, score_batches


class Shifted(nn.Module):
    """The class in the image's first pixel scores highest, the classes after it next, in order."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        return -((torch.arange(self.classes) - images[:, 0, 0, :1].long()) % self.classes).float()


def score(truth, answers, classes, **options):
    images = torch.tensor(answers).float().view(-1, 1, 1, 1)
    parts = zip(images.split(2), torch.tensor(truth).split(2), torch.arange(len(truth)).split(2), strict=True)
    return score_batches(Shifted(classes), [Batch(*part) for part in parts], classes, torch.device("cpu"), **options)


def test_a_score():
    found = score([0, 1, 2, 5, 5], [0, 0, 3, 5, 4], 7)
    assert (found.top1, found.top5, found.count) == (2 / 5, 4 / 5, 5)
    assert found.confusion.to_dense().nonzero().tolist() == [[0, 0], [1, 0], [2, 3], [5, 4], [5, 5]]
    logits = Shifted(7)(torch.tensor([0, 0, 3, 5, 4]).view(-1, 1, 1, 1))
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 5, 5])).item())
    assert found.summary()["held_out_top5"] == 0.8


def test_top_5_of_five_classes_says_nothing():
    found = score([0, 1, 4], [0, 0, 0], 5)
    assert (found.top1, found.top5) == (pytest.approx(1 / 3), 1.0)
    assert found.summary()["held_out_top5"] is None


def test_processes_are_put_together():
    """As two processes would: this one, and one without images."""
    none = torch.zeros(0, 6, dtype=torch.int64)
    found = score([0, 1], [0, 0], 7, gather=lambda own: [own, none if own.dim() else torch.zeros_like(own)])
    assert (found.top1, found.count) == (0.5, 2)


def test_no_images():
    found = score_batches(Shifted(7), [], 7, torch.device("cpu"))
    assert (found.count, found.top1, found.loss) == (0, 0.0, 0.0)
    assert found.confusion.shape == (7, 7)


@pytest.mark.parametrize("classes", [3, 1000, 1001, 10_000])
def test_the_matrix_of_many_classes_is_written_as_pairs(classes):
    found = score([0, 1, 2, 2, 1], [0, 0, 2, 2, 0], classes)
    labels = [str(number) for number in range(classes)]
    values = json.loads(json.dumps(ClassificationEvaluation(found, labels, [], 1.0).to_dict()))
    pairs = [[0, 0, 1], [1, 0, 2], [2, 2, 2]]
    if classes <= 1000:
        assert "confusion_pairs" not in values
        matrix = torch.tensor(values["confusion"])
        assert matrix.shape == (classes, classes)
        assert [[r, c, matrix[r, c].item()] for r, c in matrix.nonzero().tolist()] == pairs
    else:
        assert values["confusion"] is None
        assert values["confusion_pairs"] == pairs
    assert values["most_confused"] == [{"truth": "1", "answer": "0", "pictures": 2, "share": 1.0}]
    assert [row["pictures"] for row in values["classes"][:3]] == [1, 2, 2]
