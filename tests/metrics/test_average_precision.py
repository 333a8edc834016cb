"""COCO's average precision: against pycocotools, and against figures computed by hand."""

import contextlib
import copy
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sasa.errors import DataError
from sasa.metrics.average_precision import average_precision

pytest.importorskip("faster_coco_eval")
FIGURES = ("map", "map50", "map75", "small", "medium", "large")


def document(boxes, names=("cat",), images=1):
    """COCO's ground truth from (image, class, box) or (image, class, box, more)."""
    return {
        "images": [{"id": place} for place in range(images)],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, **(more[0] if more else {})}
            for number, (image, category, box, *more) in enumerate(boxes)
        ],
    }


def results(*found) -> list[dict[str, Any]]:
    return [dict(zip(("image_id", "category_id", "bbox", "score"), each, strict=True)) for each in found]


def random_documents(seed):
    """Crowds, boxes without area, empty images, gaps between ids, classes without truth or without detections."""
    draw = np.random.default_rng(seed)
    images = draw.choice(1000, draw.integers(1, 12), replace=False).tolist()
    classes = (1 + draw.choice(90, draw.integers(2, 7), replace=False)).tolist()
    truth, found = [], []
    for image in images[1:] or images:
        for _ in range(draw.integers(0, 8)):
            box = [*draw.uniform(0, 200, 2), *np.exp(draw.uniform(1, 5.5, 2))]
            box[2] *= draw.random() > 0.05  # some without an area
            category = int(draw.choice(classes[1:]))
            truth.append(
                {
                    "image_id": image,
                    "category_id": category,
                    "bbox": [round(float(side), 2) for side in box],
                    "area": float(box[2] * box[3] * draw.uniform(0.5, 1)),
                    "iscrowd": int(draw.random() < 0.15),
                }
            )
            for _ in range(draw.integers(0, 4)):
                moved = np.abs(np.asarray(box) * draw.uniform(0.85, 1.15, 4))
                guess = category if draw.random() < 0.8 else int(draw.choice(classes))
                found += results((image, guess, moved.tolist(), round(float(draw.random()), 1)))  # many ties
    truth.append({**box_of(images[0], classes[1]), "iscrowd": 0})
    for number, each in enumerate(truth, start=1):
        each["id"] = number
    names = [{"id": place, "name": f"class {place}"} for place in classes]
    return {"images": [{"id": each} for each in images], "categories": names, "annotations": truth}, found


def box_of(image, category):
    return {"image_id": image, "category_id": category, "bbox": [5.0, 6.0, 40.0, 50.0], "area": 2000.0}


def by_pycocotools(truth, found):
    """The six figures, and (map, map50) by class; nan where there is no ground truth."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        side = coco.COCO()
        side.dataset = copy.deepcopy({"info": {}} | truth)
        side.createIndex()
        evaluation = cocoeval.COCOeval(side, side.loadRes(copy.deepcopy(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    whole = evaluation.eval["precision"][..., 0, -1]
    names = {each["id"]: each["name"] for each in truth["categories"]}
    per_class = {names[key]: whole[:, :, k] for k, key in enumerate(evaluation.params.catIds)}
    pairs = {name: (each.mean(), each[0].mean()) for name, each in per_class.items()}
    known = {name: pair if pair[0] > -1 else (math.nan, math.nan) for name, pair in pairs.items()}
    return [math.nan if figure == -1 else figure for figure in evaluation.stats[:6]], known


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_the_same_as_pycocotools(seed):
    truth, found = random_documents(seed)
    before = copy.deepcopy((truth, found))
    score = average_precision(truth, found)
    assert (truth, found) == before
    if not found:  # pycocotools cannot read none
        assert score.quality == (0, 0)
        return
    figures, per_class = by_pycocotools(truth, found)
    np.testing.assert_allclose([getattr(score, name) for name in FIGURES], figures, rtol=0, atol=1e-6)
    assert score.per_class.keys() == per_class.keys()
    for name, pair in per_class.items():
        np.testing.assert_allclose(score.per_class[name], pair, rtol=0, atol=1e-6, err_msg=name)
    assert average_precision(*json.loads(json.dumps([truth, found]))).to_dict() == score.to_dict()


def test_more_than_a_hundred_in_an_image():
    """Only the hundred best detections of each image and class count."""
    truth = document([(0, 0, [0, 0, 10, 10]), (0, 1, [0, 0, 10, 10], {"area": 90})], ("cat", "dog"))
    truth["annotations"] = [each | {"area": 90, "iscrowd": 0, "id": each["id"] + 1} for each in truth["annotations"]]
    wrong = [(0, category, [500, 500, 9, 9], 0.9) for category, count in ((0, 99), (1, 100)) for _ in range(count)]
    found = results(*wrong, (0, 0, [0, 0, 10, 10], 0.1), (0, 1, [0, 0, 10, 10], 0.1))
    score = average_precision(truth, found)
    assert score.per_class["cat"] == pytest.approx((0.01, 0.01))
    assert score.per_class["dog"] == (0, 0)
    assert score.map == pytest.approx(by_pycocotools(truth, found)[0][0])


def test_a_case_computed_by_hand():
    """Two cats. The best detection overlaps one by 0.8, the second is wrong, the third is the other cat exactly.

    Up to the threshold 0.8 precision is 1 for the 51 recalls 0 .. 0.5 and 2/3 for the other 50; the two thresholds
    0.85 .. 0.95 leave 1/3 for the recalls 0 .. 0.5 alone.
    """
    truth = document([(0, 0, [0, 0, 10, 10]), (1, 0, [50, 50, 100, 100])], ("cat", "dog"), images=2)
    found = results((0, 0, [0, 0, 10, 8], 0.9), (0, 0, [200, 200, 9, 9], 0.8), (1, 0, [50, 50, 100, 100], 0.7))
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
    score = average_precision(truth, found)
    assert score.map50 == pytest.approx(low)
    assert score.map75 == pytest.approx(low)
    assert score.map == pytest.approx((7 * low + 3 * high) / 10)
    assert score.per_class["cat"] == pytest.approx((score.map, score.map50))
    assert all(map(math.isnan, (*score.per_class["dog"], score.medium)))
    assert (score.boxes, score.images, score.detections) == ({"cat": 2, "dog": 0}, 2, 3)


def test_perfect_detections_and_no_detections():
    boxes = [(0, 0, [0, 0, 10, 10]), (0, 1, [1, 1, 50, 50]), (2, 1, [3, 3, 200, 200]), (2, 1, [0, 0, 10, 20])]
    truth = document(boxes, ("cat", "dog", "owl"), images=3)
    score = average_precision(truth, results(*((*each, 0.5) for each in boxes)))
    assert [getattr(score, name) for name in FIGURES] == pytest.approx([1] * 6)
    nothing = average_precision(truth, [])
    assert [getattr(nothing, name) for name in FIGURES] == [0] * 6
    assert nothing.quality == (0, 0)
    assert nothing.quality < score.quality


def test_json_has_none_for_nan():
    values = average_precision(document([(0, 1, [0, 0, 10, 10])], ("cat", "dog")), []).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == {
        "map": 0.0, "map50": 0.0, "map75": 0.0, "small": 0.0, "medium": None, "large": None,
        "per_class": {"cat": [None, None], "dog": [0.0, 0.0]}, "boxes": {"cat": 0, "dog": 1},
        "pictures": 1, "detections": 0,
    }  # fmt: skip


def test_ids_that_are_strings():
    truth, found = random_documents(3)
    numbers = average_precision(truth, found)
    for each in [*truth["annotations"], *found]:
        each.update(image_id=f"{each['image_id']:04}", category_id=f"c{each['category_id']}")
    truth["images"] = [{"id": f"{each['id']:04}"} for each in sorted(truth["images"], key=lambda each: each["id"])]
    truth["categories"] = [{**each, "id": f"c{each['id']}"} for each in truth["categories"]]
    assert average_precision(truth, found).to_dict() == numbers.to_dict()


def test_ids_of_annotations_do_not_matter():
    truth, found = random_documents(4)
    expected = average_precision(truth, found)
    for each in truth["annotations"]:
        each["id"] = 0
    assert average_precision(truth, found) == expected


def test_annotations_without_a_box_are_ignored():
    good = (0, 0, [0, 0, 40, 40], {"area": None, "iscrowd": None})
    bad = [None, [], [1, 2, 3], [0, 0, math.nan, 1], [0, 0, "1", 1], [0, 0, -5, 5], {"x": 1}]
    boxes = [good, *((0, 0, box) for box in bad), (7, 0, [0, 0, 1, 1]), (0, 7, [0, 0, 1, 1])]
    truth = document(boxes)
    truth["annotations"].append({"id": 99, "image_id": 0, "category_id": 0})
    score = average_precision(truth, results((0, 0, [0, 0, 40, 40], 1), (0, 7, [0, 0, 9, 9], 1)))
    assert score.map == 1
    assert score.medium == 1, "a missing area is that of the box"
    assert score.boxes == {"cat": 1}


@pytest.mark.parametrize("boxes", [[], [(0, 0, [0, 0, 9, 9], {"iscrowd": 1})], [(0, 0, [])]])
@pytest.mark.parametrize("found", [[], [(0, 0, [0, 0, 9, 9], 1)]])
def test_nothing_to_score_against(boxes, found):
    with pytest.raises(DataError, match="the ground truth of 2 images has no boxes to score against"):
        average_precision(document(boxes, images=2), results(*found))


def test_an_empty_document():
    with pytest.raises(DataError, match="the ground truth of 0 images has no boxes to score against"):
        average_precision({"images": [], "annotations": [], "categories": []}, [])


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ((7, 0, [0, 0, 1, 1], 1), "a detection is of image 7, which is not in the ground truth"),
        (
            (0, 0, [0, 0, 1, math.inf], 1),
            r"has the box \[0, 0, 1, inf\] and the score 1: a box must",
        ),
        ((0, 0, [0, 0, -1, 1], 1), "without a negative width or height"),
        ((0, 0, [0, 0, 1, 1], math.nan), "the score nan"),
    ],
)
def test_detections_that_cannot_be_scored(found, sentence):
    with pytest.raises(DataError, match=sentence):
        average_precision(document([(0, 0, [0, 0, 9, 9])]), results(found))


def test_nothing_is_printed(capfd, caplog):
    average_precision(*random_documents(1))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
