"""COCO's format: training targets, reports, errors, and the ground truth of scores."""

import io
import json
import math
import os
import pickle
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from PIL import Image

from boxes import annotation
from sasa.data.detection import CocoSource, DetectionSubset
from sasa.errors import DataError

GOOD = annotation(1, 10, [5, 6, 10, 20], 7)


def change(path, **parts):
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **parts}))


def test_boxes_labels_and_names(coco):
    path, folder = coco([GOOD, annotation(2, 10, [0.5, 0, 39.5, 30])], ["a.png", "deep/er/b.png"])
    source = pickle.loads(pickle.dumps(CocoSource(path, folder)))
    assert (len(source), source.classes, source.category_ids) == (2, ["cat", "dog"], [3, 7])
    targets = source.targets(0)
    torch.testing.assert_close(targets.boxes, torch.tensor([[5.0, 6, 15, 26], [0.5, 0, 40, 30]]), rtol=0, atol=0)
    assert (targets.labels.tolist(), targets.labels.dtype, targets.crowd.tolist()) == ([1, 0], torch.int64, [False] * 2)
    empty = source.targets(1)
    assert (empty.boxes.shape, empty.labels.shape, empty.crowd.dtype) == ((0, 4), (0,), torch.bool)
    assert source.name(1) == str(folder / "deep/er/b.png")
    assert (source.image_id(1), source.size(1)) == (20, (30, 40))
    assert source.read(1).size == (40, 30)
    assert source.read(1, channels=1).mode == "L"
    assert source.groups is None
    assert source.problems == []


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        (
            [25, 15, 38, 29],
            "100% reach beyond their images, and which would all lie inside if they were left, top",
        ),
        ([0.2, 0.3, 0.5, 0.4], "has boxes in fractions of the images, up to 0.7: expected pixels"),
    ],
)
def test_boxes_with_another_meaning(coco, box, sentence):
    boxes = [annotation(n, 10, [*box[:3], box[3] - n / 100], 7) for n in range(4)]
    with pytest.raises(DataError, match=sentence):
        CocoSource(*coco(boxes))
    assert (
        len(CocoSource(*coco([*boxes, annotation(9, 10, [20, 9, 10, 20], 7)])).targets(0)) == 5
    )  # as a whole they are possible


def test_the_boxes_of_an_image_with_two_ids_are_joined(coco):
    """LIVECell lists some images twice, and its annotations by id."""
    path, folder = coco([GOOD, annotation(2, 20, [1, 2, 3, 4], 7)], ["a.png", "a.png", "b.png"])
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"annotations": {str(a["id"]): a for a in document["annotations"]}}))
    source = CocoSource(path, folder)
    assert [source.file_name(n) for n in range(len(source))] == ["a.png", "b.png"]
    assert source.targets(0).boxes.tolist() == [[5, 6, 15, 26], [1, 2, 4, 6]]
    assert "joined: the boxes of 1 images that" in source.description[0]
    truth = source.coco()
    assert [image["id"] for image in truth["images"]] == [source.image_id(0), source.image_id(1)] == [10, 30]
    assert [a["image_id"] for a in truth["annotations"]] == [10, 10]


def test_an_image_listed_twice_with_different_sizes(coco):
    path, folder = coco([GOOD], ["a.png", "a.png"])
    document = json.loads(path.read_text())
    document["images"][1]["width"] = 41
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"names the image a\.png twice"):
        CocoSource(path, folder)


@pytest.mark.parametrize("outline", [[[5, 6, 15, 6, 15, 26]], [[5, 6, 8, 6, 8, 9], [15, 26, 14, 26, 14, 25.5]]])
def test_boxes_are_made_of_outlines(coco, outline):
    bare = {key: value for key, value in GOOD.items() if key != "bbox"}
    source = CocoSource(*coco([bare | {"segmentation": outline}]))
    assert source.targets(0).boxes.tolist() == [[5, 6, 15, 26]]
    assert source.coco()["annotations"][0]["bbox"] == [5, 6, 10, 20]


def test_names_in_the_addresses_of_lvis(coco):
    path, folder = coco([GOOD])
    document = json.loads(path.read_text())
    for image in document["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    path.write_text(json.dumps(document))
    assert CocoSource(path, folder).file_name(1) == "b.png"


def test_targets_are_copies(coco):
    source = CocoSource(*coco([GOOD]))
    source.targets(0).boxes.zero_()
    assert source.targets(0).boxes.tolist() == [[5, 6, 15, 26]]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (annotation(2, 10, [5, 5, 0, 9]), "annotation 2 of a.png has no area (width 0, height 9) and is left out"),
        (annotation(2, 10, [5, 5, 3, -2]), "annotation 2 of a.png has no area (width 3, height -2) and is left out"),
        (annotation(2, 10, [30, 5, 1e-9, 9]), "annotation 2 of a.png has no area (width 1.00000e-09"),
        (annotation(2, 10, [1, 2, 3]), "has a bbox that is not four finite numbers ([1, 2, 3]) and is left out"),
        (annotation(2, 10, [1, 2, 3, None]), "has a bbox that is not four finite numbers ([1, 2, 3, null])"),
        (annotation(2, 10, [1, 2, 3, "4"]), 'has a bbox that is not four finite numbers ([1, 2, 3, "4"])'),
        (annotation(2, 10, [1, 2, 3, True]), "has a bbox that is not four finite numbers ([1, 2, 3, true])"),
        (annotation(2, 10, [1, 2, 3, math.nan]), "has a bbox that is not four finite numbers ([1, 2, 3, NaN])"),
        (annotation(2, 10, [1, 2, math.inf, 4]), "has a bbox that is not four finite numbers ([1, 2, Infinity, 4])"),
        (annotation(2, 10, [1, 2, 10**400, 4]), "has a bbox that is not four finite numbers ([1, 2, 1000"),
        (annotation(2, 10, {"x": 1}), 'has a bbox that is not four finite numbers ({"x": 1})'),
        ({"id": 2, "image_id": 10, "category_id": 3}, "annotation 2 of a.png has no bbox and is left out"),
        (annotation(2, 99, [1, 2, 3, 4]), "annotation 2 is of the image with the id 99, which is not listed"),
        (annotation(2, "ten", [1, 2, 3, 4]), "annotation 2 is of the image with the id 'ten', which is not listed"),
        (annotation(2, [1], [1, 2, 3, 4]), "annotation 2 is of the image with the id [1], which is not listed"),
        (annotation(2, 10, [1, 2, 3, 4], 5), "of a.png is of the category with the id 5, which is not listed, and is"),
        (annotation(2, 10, [40, 2, 3, 4]), "lies outside its image of 30 x 40 pixels (x 40 to 43, y 2 to 6) and is"),
        (annotation(2, 10, [1, -9, 3, 9]), "lies outside its image of 30 x 40 pixels (x 1 to 4, y -9 to 0) and is"),
        (annotation(2, 10, [5, 6, 10, 20], 7), "has the same class and box as another of its image and is left out"),
        (annotation(2, 10, [1e308, 0, 1e308, 5]), "annotation 2 of a.png has no area (width inf"),
    ],
)
def test_unusable_boxes_are_left_out_and_reported(coco, bad, sentence):
    source = CocoSource(*coco([bad, GOOD] if "same class" not in sentence else [GOOD, bad]), ["dog", "cat"])
    assert source.targets(0).boxes.tolist() == [[5, 6, 15, 26]]
    assert source.targets(0).labels.tolist() == [0]
    [problem] = source.problems
    assert problem.id == 2
    assert sentence.replace("1.00000e-09", "1e-09") in str(problem)
    assert str(problem).startswith(f"{problem.file}: annotation 2")
    assert problem.file.endswith("set.json")


def test_boxes_are_clipped_to_the_image_and_reported_beyond_a_pixel(coco):
    boxes = [[-3, 4, 10, 10], [30, 20, 10.5, 10.9], [0, 0, 1e6, 5]]
    source = CocoSource(*coco([annotation(n, 10, box) for n, box in enumerate(boxes)]), ["cat", "dog"])
    assert source.targets(0).boxes.tolist() == [[0, 4, 7, 14], [30, 20, 40, 30], [0, 0, 40, 5]]
    assert [p.id for p in source.problems] == [0, 2]
    assert str(source.problems[0]).endswith(
        "set.json: annotation 0 of a.png reaches beyond its image of 30 x 40 pixels (x -3 to 7, y 4 to 14) "
        "and is clipped to it"
    )


def test_the_same_box_of_another_class_image_or_as_a_crowd_is_another(coco):
    box = [5, 6, 10, 20]
    others = [annotation(2, 20, box, 7), annotation(3, 10, box, 3), annotation(4, 10, box, 7, iscrowd=1)]
    source = CocoSource(*coco([GOOD, *others]))
    assert source.problems == []
    assert source.targets(0).labels.tolist() == [1, 0, 1]
    assert source.targets(0).crowd.tolist() == [False, False, True]


def test_a_class_without_boxes_is_kept_and_reported(coco):
    path, folder = coco([GOOD, annotation(2, 10, [1, 1, 5, 5], 3, iscrowd=1)])
    source = CocoSource(path, folder)
    assert source.classes == ["cat", "dog"]
    assert [str(p) for p in source.problems] == [f"{path}: class 'cat' has no boxes"]
    assert CocoSource(path, folder, ["dog", "cat"]).problems == []  # held-out images need not have every class


def test_a_class_that_is_listed_twice(coco):
    twice = [{"id": 0, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    path, folder = coco([GOOD, annotation(2, 10, [1, 1, 5, 5])], categories=twice)
    source = CocoSource(path, folder)
    assert (source.classes, source.category_ids, source.targets(0).labels.tolist()) == (["cat", "dog"], [3, 7], [1, 0])
    assert "class 'dog' is listed twice: the one with the id 0 has no boxes and is left out" in str(source.problems[0])
    change(path, annotations=[GOOD, annotation(2, 10, [1, 1, 5, 5], 0)])
    with pytest.raises(DataError, match="two classes of the same name 'dog', with the ids 0 and 7"):
        CocoSource(path, folder)


def test_classes_are_matched_by_name(coco):
    path, folder = coco([GOOD])
    source = CocoSource(path, folder, ["bird", "dog", "cat"])
    assert source.targets(0).labels.tolist() == [1]
    assert source.category_ids[1:] == [7, 3]
    assert source.category_ids[0] not in (3, 7)
    with pytest.raises(DataError, match=r"set\.json has a class 'cat' that the training images lack"):
        CocoSource(path, folder, ["dog"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"images": [1, 2', r"set\.json is damaged: no JSON at line 1, column 17"),
        (b"", r"set\.json is damaged: no JSON at line 1, column 1"),
        (b"\xff\xd8\xff\xe0", r"set\.json is damaged: it cannot be read as JSON"),
        (b"[" * 100_000, r"set\.json is damaged: it cannot be read as JSON"),
        (b'{"images": ' + b"9" * 5000 + b"}", r"set\.json is damaged: it cannot be read as JSON"),
        (b"[]", r"set\.json is a list, not COCO annotations: those are an object with images, annotations, categories"),
        (b'[{"image_id": 1, "score": 0.5}]', r"is a list of results \(boxes with scores\), not COCO annotations"),
        (b'{"shapes": []}', r"set\.json is LabelMe's format \(it has \"shapes\"\), not COCO annotations"),
        (b'{"images": []}', r"is not COCO annotations: it has no annotations and no categories"),
        (b"7", r"is not COCO annotations: it has no images and no annotations and no categories"),
        (b'{"images": [1], "annotations": [], "categories": []}', r"its images are not a list of objects"),
        (b'{"images": [], "annotations": [5], "categories": []}', r"its annotations are not a list of objects"),
        (b'{"images": [], "annotations": [], "categories": []}', r"has no images: its list of images is empty"),
    ],
)
def test_files_in_another_format(tmp_path, content, sentence):
    (tmp_path / "set.json").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        CocoSource(tmp_path / "set.json", tmp_path)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"annotations": []}, r"set\.json has no boxes: its list of annotations is empty"),
        ({"categories": []}, r"set\.json has no classes: its list of categories is empty"),
        ({"annotations": [{"caption": "a dog"}]}, r"holds captions without boxes \(bbox\): the file of the boxes is"),
        ({"annotations": [{"keypoints": []}]}, r"holds keypoints without boxes \(bbox\)"),
        ({"annotations": [{"segments_info": []}]}, r"holds panoptic segments without boxes"),
        ({"annotations": [annotation(n, 10, [1, 2, 0, 4]) for n in (1, 2)]}, r"has 2 boxes and none has an area"),
        (
            {"annotations": [annotation(1, 10, [1, 2, 0, 4]), annotation(2, 9, [1, 2, 3, 4])]},
            r"set\.json has 2 boxes and none can be used; .*annotation 2 is of the image with the id 9",
        ),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, r"set\.json lists 2 images with the id 1"),
        ({"images": [{"file_name": "a.png"}]}, r"an image 'a\.png' whose id is not an integer or a word: None"),
        ({"images": [{"id": 1}]}, r"lists the image with the id 1 without a file_name"),
        ({"categories": [{"id": 3, "name": "x"}, {"id": 3, "name": "y"}]}, r"lists 2 categories with the id 3"),
        ({"categories": [{"id": 3}]}, r"a category that lacks an id \(an integer or a word\) or a name: \{'id': 3\}"),
        ({"images": [{"id": 1, "file_name": "../set.json"}]}, r"1 are not in .*images: \.\./set\.json"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, r"1 are not in .*images: /etc/passwd"),
        ({"images": [{"id": 1, "file_name": "x/../../set.json"}]}, r"1 are not in .*images: x/\.\./\.\./set\.json"),
        ({"images": [{"id": 1, "file_name": ".."}]}, r"names an image '\.\.', which is not a valid file name"),
        ({"images": [{"id": 1, "file_name": "zero\0"}]}, r"which is not a valid file name"),
        ({"images": [{"id": 1, "file_name": "\ud800.png"}]}, r"'\\ud800\.png', which is not a valid file name"),
        (
            {"images": [{"id": n, "file_name": f"{n}.png"} for n in (1, 2)] + [{"id": 3, "file_name": "a.png"}]},
            r"names 3 images, of which 2 are not in .*images: 1\.png and others",
        ),
        ({"images": [{"id": 1, "file_name": "deep/1.png"}]}, r"1 images, of which 1 are not in .*: deep/1\.png$"),
        ({"images": [{"id": [1], "file_name": "a.png"}]}, r"'a\.png' whose id is not an integer or a word: \[1\]"),
        (
            {"images": [{"id": n, "file_name": name} for n, name in ((1, "a.png"), (2, "a.png"), (2, "b.png"))]},
            "lists 2 images with the id 2",
        ),
    ],
)
def test_files_that_cannot_be_used(coco, parts, sentence):
    path, folder = coco([GOOD])
    change(path, **parts)
    with pytest.raises(DataError, match=sentence):
        CocoSource(path, folder)


def test_words_that_are_no_text(coco):
    """JSON can hold a half of a surrogate pair, which UTF-8 cannot."""
    names = [{"id": 3, "name": "cat"}, {"id": 7, "name": "\ud800"}]
    path, folder = coco([GOOD, {**annotation(1, 20, [1, 2, 0, 4], 3), "id": "\udcff\ud801"}], categories=names)
    source = CocoSource(path, folder)
    assert source.classes == ["cat", r"\ud800"]
    assert r"annotation \udcff\ud801 of b.png has no area" in str(source.problems[0])


def test_crowds_that_are_written_as_words(coco):
    words = ("0", "1", "False", "0.0", "")
    path, folder = coco([annotation(n, 10, [n, 1, 5, 5], 7, iscrowd=word) for n, word in enumerate(words, 1)])
    source = CocoSource(path, folder)
    assert source.targets(0).crowd.tolist() == [False, True, False, False, False]
    assert [a["iscrowd"] for a in source.coco()["annotations"]] == [0, 1, 0, 0, 0]


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"set\.json cannot be read: No such file or directory"):
        CocoSource(tmp_path / "set.json", tmp_path)


def test_missing_sizes_are_those_of_the_upright_images(coco):
    path, folder = coco([annotation(1, 10, [0, 0, 900, 900])], ["a.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (40, 30)).save(folder / "a.jpg", exif=exif)
    change(path, images=[{"id": 10, "file_name": "./a.jpg", "width": None}])
    source = CocoSource(path, folder, ["cat", "dog"])
    assert source.size(0) == (40, 30)
    assert source.targets(0).boxes.tolist() == [[0, 0, 30, 40]]
    assert source.read(0).size == (30, 40)
    (folder / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.jpg is not an image that can be read"):
        CocoSource(path, folder)


def test_an_image_of_another_size_than_was_annotated(coco):
    path, folder = coco([GOOD])
    source = CocoSource(path, folder)
    Image.new("RGB", (30, 40)).save(folder / "a.png")
    with pytest.raises(
        DataError, match=r"a\.png is 40 x 30 pixels when upright, but was annotated as 30 x 40 \(height x width\)"
    ):
        source.read(0)


def test_scores_are_computed_against_the_file_as_it_is(coco):
    """Also boxes that are not trained on: those without area, repeated ones and crowds."""
    annotations = [
        GOOD | {"area": 77, "segmentation": [[1, 2, 3, 4]], "note": "x"},
        annotation(2, 10, [5, 6, 0, 0], area=0),
        annotation(3, 10, [5, 6, 10, 20], 7, area=77),
        annotation(4, 20, [1, 1, 90, 9], iscrowd=1, area=5),
        {"id": 5, "image_id": 20, "category_id": 3, "bbox": [1, 2, 3, 4]},
        annotation(6, 20, [1, 2]),
        annotation(7, 99, [1, 2, 3, 4]),
    ]
    path, folder = coco(annotations)
    truth = CocoSource(path, folder).coco()
    document = json.loads(path.read_text())
    assert truth["images"] == document["images"]
    assert truth["categories"] == document["categories"]
    first = {key: value for key, value in annotations[0].items() if key != "segmentation"}
    assert truth["annotations"] == [first, *annotations[1:4], annotations[4] | {"iscrowd": 0, "area": 12}]
    change(path, annotations=[{k: v for k, v in a.items() if k != "id"} for a in annotations[:2]])
    assert [a["id"] for a in CocoSource(path, folder).coco()["annotations"]] == [1, 2]


def test_a_subset(coco):
    path, folder = coco([GOOD, annotation(2, 20, [1, 2, 3, 4], area=9), annotation(3, 20, [1, 2, 0, 4], area=0)])
    whole = CocoSource(path, folder)
    subset = pickle.loads(pickle.dumps(DetectionSubset(whole, [1])))
    assert (len(subset), subset.classes, subset.category_ids) == (1, ["cat", "dog"], [3, 7])
    assert (subset.name(0), subset.image_id(0), subset.size(0)) == (str(folder / "b.png"), 20, (30, 40))
    assert subset.targets(0).boxes.tolist() == [[1, 2, 4, 6]]
    assert subset.read(0).size == (40, 30)
    truth = subset.coco()
    assert [image["id"] for image in truth["images"]] == [20]
    assert [a["id"] for a in truth["annotations"]] == [2, 3]
    assert [p.id for p in subset.problems] == [3]
    assert DetectionSubset(whole, [0]).problems == []


def test_problems_of_images_whose_names_are_not_utf8(coco):
    names = ("a.png", os.fsdecode(b"\xff.png"))
    source = CocoSource(*coco([GOOD, annotation(2, 20, [1, 2, 0, 4]), annotation(3, 20, [1, 1, 4, 4])], names))
    assert DetectionSubset(source, [0]).problems == []
    [problem] = DetectionSubset(source, [1]).problems
    assert str(problem).endswith(r"annotation 2 of \xff.png has no area (width 0, height 4) and is left out")


def test_pycocotools_scores_the_same_with_the_file_and_with_the_exported_truth(coco):
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    tools = pytest.importorskip("pycocotools.coco")
    random = np.random.default_rng(0)

    def box():
        return [*random.uniform(0, 20, 2).round(1).tolist(), *random.uniform(1, 20, 2).round(1).tolist()]

    boxes = [(10 * int(random.integers(1, 3)), box(), (3, 7)[n % 2]) for n in range(20)]
    truth = [
        annotation(n, i, b, c, area=b[2] * b[3] * 0.7, iscrowd=int(n % 7 == 0)) for n, (i, b, c) in enumerate(boxes, 1)
    ]
    truth += [annotation(30, 10, [1, 1, 0, 0], area=0), {**truth[3], "id": 31}]
    path, folder = coco(truth)
    results = [
        {
            "image_id": i,
            "category_id": c,
            "bbox": [v + float(random.normal()) for v in b],
            "score": float(random.random()),
        }
        for i, b, c in boxes * 2
    ]

    def score(ground_truth):
        scoring = evaluation.COCOeval(ground_truth, ground_truth.loadRes([dict(r) for r in results]), "bbox")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
        return scoring.stats

    with redirect_stdout(io.StringIO()):
        from_file, given = tools.COCO(str(path)), tools.COCO()
        given.dataset = CocoSource(path, folder).coco()
        given.createIndex()
        expected = score(from_file)
        np.testing.assert_array_equal(score(given), expected)
    assert 0 < expected[0] < 1
