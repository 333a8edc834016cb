"""Opening any data set by one path: layouts, splits, and errors for everything else."""

import json
import shutil

import pytest

from image_files import save_image
from sasa.data.detection import open_detection_split, open_detection_splits
from sasa.errors import ArgumentError, DataError

BOX = {"id": 1, "image_id": 10, "category_id": 3, "bbox": [5, 6, 10, 20], "iscrowd": 0}
CAT = [{"id": 3, "name": "cat"}]
MANY = [f"{n}.png" for n in range(10)]


@pytest.mark.parametrize(
    ("json_path", "folder"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/instances_{}2017.json", "images/{}"),
        ("annotations/instances_{}.json", "{}"),
        ("annotations/instances_{}.json", "images"),
        ("annotations/{}.json", "."),
        ("instances_{}.json", "images/{}"),
        ("{}/_annotations.coco.json", "{}"),
    ],
)
def test_layouts_of_coco(coco, tmp_path, json_path, folder):
    for split, names in (("train", ["a.png", "b.png"]), ("val", ["c.png"]), ("test", ["d.png"])):
        word = "valid" if "_annotations" in json_path and split == "val" else split
        coco([BOX], names, json_path=tmp_path / json_path.format(word), folder=tmp_path / folder.format(word))
    (tmp_path / "images").mkdir(exist_ok=True)  # an empty directory is not taken for that of the images
    train, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    assert [train.file_name(n) for n in range(len(train))] == ["a.png", "b.png"]
    assert [held_out.file_name(n) for n in range(len(held_out))] == ["c.png"]
    for split, name in (("train", "a.png"), ("val", "c.png"), ("test", "d.png")):
        source = open_detection_split(str(tmp_path), split)
        assert source.file_name(0) == name
        assert source.read(0).size == (40, 30)


def test_held_out_images_are_numbered_by_the_training_classes(coco, tmp_path):
    coco([BOX], json_path=tmp_path / "annotations/train.json", folder=tmp_path / "images")
    other = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    coco([BOX | {"category_id": 1}], json_path=tmp_path / "annotations/val.json", categories=other, folder=tmp_path)
    train, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    assert held_out.classes == train.classes == ["cat", "dog"]
    assert (train.category_ids, held_out.category_ids) == ([3, 7], [2, 1])
    assert held_out.targets(0).labels.tolist() == [1]
    assert held_out.coco()["annotations"][0]["category_id"] == 1
    coco([BOX], json_path=tmp_path / "annotations/train.json", categories=CAT, folder=tmp_path)
    with pytest.raises(DataError, match=r"val\.json has a class 'dog' that the training images lack"):
        open_detection_splits(str(tmp_path), 0.2, 0)
    with pytest.raises(DataError, match=r"val\.json has a class 'cat' that the training images lack"):
        open_detection_split(str(tmp_path), "val", classes=["dog"])


def test_held_out_images_are_drawn_where_there_are_none(coco, tmp_path):
    coco([BOX], MANY, CAT, tmp_path / "annotations/instances_train.json", tmp_path / "train")
    train, held_out = open_detection_splits(str(tmp_path), 0.3, 5)
    names = [[source.file_name(n) for n in range(len(source))] for source in (train, held_out)]
    assert (len(names[0]), len(names[1]), sorted(names[0] + names[1])) == (7, 3, MANY)
    assert names[0] == sorted(names[0])
    for split, expected in (("train", names[0]), ("val", names[1])):
        source = open_detection_split(str(tmp_path), split, 0.3, 5)
        assert [source.file_name(n) for n in range(len(source))] == expected
    other = open_detection_split(str(tmp_path), "val", 0.3, 6)
    assert [other.file_name(n) for n in range(3)] != names[1]
    with pytest.raises(DataError, match=r"has no split 'test', only 'train'"):
        open_detection_split(str(tmp_path), "test")
    with pytest.raises(DataError, match=r"has 10 images, too few to hold out a fraction of 0\.99"):
        open_detection_splits(str(tmp_path), 0.99, 0)
    with pytest.raises(ArgumentError, match="split must be one of train, val, test, got 'held-out'"):
        open_detection_split(str(tmp_path), "held-out")


def test_a_single_split(coco, tmp_path):
    coco([BOX], MANY, CAT, tmp_path / "annotations/instances_val2017.json", tmp_path / "val2017")
    assert len(open_detection_split(str(tmp_path), "val")) == 10
    with pytest.raises(DataError, match="has no split 'train', only 'val'"):
        open_detection_splits(str(tmp_path), 0.2, 0)


@pytest.mark.parametrize("folder", ["sub", "sub/images", "dogs", "images/dogs", "images", "sub/dogs"])
def test_one_json_file(coco, tmp_path, folder):
    path, _ = coco([BOX], MANY, CAT, tmp_path / "sub" / "instances_dogs.json", tmp_path / folder)
    train, held_out = open_detection_splits(str(path), 0.2, 0)
    assert (len(train), len(held_out)) == (8, 2)
    whole = open_detection_split(str(path), "test")
    assert len(whole) == 10
    assert whole.read(0).size == (40, 30)


@pytest.mark.parametrize("year", [".", "VOC2007", "VOCdevkit/VOC2012"])
def test_pascal_voc(voc, tmp_path, year):
    dog = ("dog", (1, 1, 4, 3))
    voc({"train": {"1": [dog]}, "val": {"2": [dog]}, "trainval": {"1": [dog], "2": [dog]}}, tmp_path / year)
    train, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    assert (train.file_name(0), held_out.file_name(0)) == ("1.jpg", "2.jpg")
    assert (len(train), len(held_out), held_out.classes) == (1, 1, ["dog"])


def test_pascal_voc_does_not_train_on_validation_images(voc, tmp_path):
    dog = ("dog", (1, 1, 4, 3))
    voc({"val": {"2": [dog]}, "trainval": {"1": [dog], "2": [dog], "3": [dog]}}, tmp_path)
    train, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    assert [train.file_name(n) for n in range(len(train))] == ["1.jpg", "3.jpg"]
    assert [held_out.file_name(n) for n in range(len(held_out))] == ["2.jpg"]


def test_pascal_voc_of_two_years_or_without_lists(voc, tmp_path):
    dogs = {str(n): [("dog", (1, 1, 4, 3))] for n in range(5)}
    for year in ("VOC2007", "VOC2012"):
        voc({"trainval": dogs}, tmp_path / year)
    with pytest.raises(DataError, match=r"2 years of Pascal VOC \(VOC2007, VOC2012\): give the path of one"):
        open_detection_splits(str(tmp_path), 0.2, 0)
    assert len(open_detection_splits(str(tmp_path / "VOC2007"), 0.2, 0)[1]) == 1
    shutil.rmtree(tmp_path / "VOC2007" / "ImageSets")
    assert len(open_detection_splits(str(tmp_path / "VOC2007"), 0.2, 0)[0]) == 4


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "it holds nothing, it is empty"),
        ({"train/_annotations.csv": "a,b", "train/1.png": None}, r"a CSV file \(train/_annotations\.csv\)"),
        ({"1.json": '{"shapes": []}', "1.png": None}, r"a JSON file \(1\.json\): .* is LabelMe's format"),
        ({"notes/1.xml": "<annotation/>", "train/1.png": None}, r"an XML file \(notes/1\.xml\)"),
        ({"cat/1.png": None, "dog/1.png": None}, "images without boxes"),
        ({"1.png": None}, "it holds images without boxes"),
        ({"notes.txt": ""}, "it holds nothing that looks like boxes"),
    ],
)
def test_other_formats_are_named(tmp_path, files, sentence):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            save_image(tmp_path / name)
        else:
            (tmp_path / name).write_text(text)
    with pytest.raises(
        DataError,
        match=rf"is not COCO JSON, Pascal VOC XML or YOLO's text: it holds .*{sentence.removeprefix('it holds ')}",
    ) as caught:
        open_detection_splits(str(tmp_path), 0.2, 0)
    assert "looked for annotations/instances_train.json" in str(caught.value)


def test_ambiguous_paths(coco, tmp_path):
    for year in ("2014", "2017"):
        coco([BOX], MANY, CAT, tmp_path / f"annotations/instances_train{year}.json", tmp_path / "images")
    with pytest.raises(
        DataError,
        match=r"2 files for the split 'train' \(annotations/instances_train2014\.json, ann.*\): give the path",
    ):
        open_detection_splits(str(tmp_path), 0.2, 0)
    (tmp_path / "annotations/instances_train2014.json").unlink()
    coco([BOX], MANY, CAT, tmp_path / "train/_annotations.coco.json", tmp_path / "train")
    with pytest.raises(DataError, match="holds COCO files and Roboflow's COCO files: give the path of the one that is"):
        open_detection_splits(str(tmp_path), 0.2, 0)


def test_paths_without_a_data_set(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        open_detection_splits(str(tmp_path / "nowhere"), 0.2, 0)
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"data\.zip is not a directory, a COCO file in JSON or a data.yaml"):
        open_detection_splits(str(tmp_path / "data.zip"), 0.2, 0)


def test_names_that_are_too_long_for_the_system(coco, tmp_path):
    path, _ = coco([BOX])
    path.write_text(path.read_text().replace("a.png", "a" * 300))
    with pytest.raises(DataError, match=r"1 are not in .*images: a{300}$"):
        open_detection_split(str(path), "test")


def test_keypoints_beside_boxes_are_ignored(coco, tmp_path):
    path, _ = coco([BOX], MANY, CAT, tmp_path / "annotations/instances_train2017.json", tmp_path / "train2017")
    for name in ("person_keypoints_train2017.json", "captions_train2017.json"):
        (path.parent / name).write_text(json.dumps({}))
    assert len(open_detection_split(str(tmp_path), "train", 0.2)) == 8
