"""Variants of COCO's and Pascal VOC's formats written by annotation tools and by hand."""

import json

import pytest
import torch
from PIL import Image

from boxes import annotation
from image_files import save_image
from sasa.data.classification import open_splits
from sasa.data.detection import CocoSource, VocSource, open_detection_split, open_detection_splits
from sasa.errors import DataError
from sasa.metrics.average_precision import average_precision


def rewrite(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def ids(document, key, change):
    """Change the ids of images or categories, in their list, in the annotations, or in both."""
    part = "images" if key == "image_id" else "categories"
    listed, used = change
    for entry in document[part]:
        entry["id"] = listed(entry["id"])
    for entry in document["annotations"]:
        entry[key] = used(entry[key])


CHANGES = {
    "floats": (float, float),
    "floats in the list": (float, int),
    "floats in the annotations": (int, float),
    "words of digits": (str, str),
    "words of digits in the list": (str, int),
    "words of digits in the annotations": (int, str),
    "words with zeros in front": ("{:06d}".format, int),
    "words": ("n{}".format, "n{}".format),
    "words of floats": (int, lambda n: f"{n}.0"),
}


@pytest.mark.parametrize("key", ["image_id", "category_id"])
@pytest.mark.parametrize("kind", CHANGES)
def test_ids_of_every_type(coco, key, kind):
    path, folder = coco([annotation(1, 10, [5, 6, 10, 20], 7), annotation(2, 20, [1, 2, 3, 4])])
    rewrite(path, lambda document: ids(document, key, CHANGES[kind]))
    source = CocoSource(path, folder)
    assert (source.classes, source.problems) == (["cat", "dog"], [])
    assert [source.targets(n).labels.tolist() for n in range(2)] == [[1], [0]]
    assert source.targets(0).boxes.tolist() == [[5, 6, 15, 26]]
    truth = source.coco()
    results = [{**a, "score": 0.9} for a in truth["annotations"]]
    assert {a["category_id"] for a in results} == set(source.category_ids)
    assert [a["image_id"] for a in results] == [source.image_id(0), source.image_id(1)]
    assert average_precision(truth, results).map == pytest.approx(1)


def test_category_ids_that_are_the_names(coco):
    path, folder = coco([annotation(1, 10, [5, 6, 10, 20], "dog"), annotation(2, 20, [1, 2, 3, 4], "cat")])
    source = CocoSource(path, folder)
    assert [source.targets(n).labels.tolist() for n in range(2)] == [[1], [0]]
    assert source.problems == []


def test_image_ids_that_are_the_names(coco):
    path, folder = coco([annotation(1, "b.png", [5, 6, 10, 20], 7), annotation(2, "a.png", [1, 2, 3, 4])])
    source = CocoSource(path, folder)
    assert [source.targets(n).labels.tolist() for n in range(2)] == [[0], [1]]
    assert [a["image_id"] for a in source.coco()["annotations"]] == [20, 10]


def test_ambiguous_ids_are_left_out_and_reported(coco):
    path, folder = coco([annotation(1, 7, [5, 6, 10, 20]), annotation(2, "07", [1, 2, 3, 4])])
    rewrite(path, lambda document: [i.update(id=word) for i, word in zip(document["images"], ("7", "07"), strict=True)])
    source = CocoSource(path, folder, ["cat", "dog"])
    assert len(source.targets(1)) == 1
    assert [str(p).partition("set.json: ")[2] for p in source.problems] == [
        "annotation 1 is of the image with the id 7, which is not listed, and is left out"
    ]


@pytest.mark.parametrize("name", [1, 2.0])
def test_names_of_classes_that_are_numbers(coco, name):
    path, folder = coco([annotation(1, 10, [5, 6, 10, 20])], categories=[{"id": 3, "name": name}])
    assert CocoSource(path, folder).classes == [str(int(name))]


NAMES = [
    r"images\a.png",
    r"deep\a.png",
    r".\a.png",
    "images/a.png",
    "./images/a.png",
    "../images/a.png",
    "/home/somebody/set/images/a.png",
    r"C:\Users\somebody\set\images\a.png",
    "file:///data/a.png",
    "/data/upload/1/a.png",
    "A.PNG",
    "train/A.png",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["", "deep/er"])
def test_names_of_another_system_machine_or_directory(coco, tmp_path, name, folder):
    path, images = coco([annotation(1, 10, [5, 6, 10, 20])], folder=tmp_path / "images" / folder)
    rewrite(path, lambda document: document["images"][0].update(file_name=name))
    rewrite(path, lambda document: document["images"].pop())
    source = CocoSource(path, tmp_path / "images", ["cat", "dog"])
    assert source.name(0) == str(images / "a.png")
    assert source.read(0).size == (40, 30)
    assert "1 names of images" in source.description[0]
    assert "a.png'" in source.description[0]


def test_ambiguous_file_names(coco, tmp_path):
    path, _ = coco([annotation(1, 10, [5, 6, 10, 20])], ["x/a.png", "y/a.png"])
    rewrite(path, lambda document: document["images"][0].update(file_name="/home/a.png"))
    with pytest.raises(DataError, match=r"names 2 images, of which 1 are not in .*images: /home/a\.png"):
        CocoSource(path, tmp_path / "images")
    rewrite(path, lambda document: document["images"][0].update(file_name="z/y/a.png"))
    with pytest.raises(DataError, match=r"names the images '.*y/a\.png' and '.*y/a\.png', of which only 'y/a\.png' is"):
        CocoSource(path, tmp_path / "images")


@pytest.mark.parametrize(
    ("json_path", "folder"),
    [
        ("result.json", "images"),  # Label Studio
        ("annotations/instances_default.json", "images"),  # CVAT
        ("annotations/instances_default.json", "images/default"),
        ("labels.json", "data"),  # FiftyOne
        ("_annotations.coco.json", "."),
        ("photos/result.json", "photos/images"),  # the wrapper of an archive
    ],
)
def test_one_file_in_a_directory(coco, tmp_path, json_path, folder):
    names = [f"{n}.png" for n in range(5)]
    coco([annotation(1, 10, [5, 6, 10, 20])], names, json_path=tmp_path / json_path, folder=tmp_path / folder)
    train, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    assert (len(train), len(held_out)) == (4, 1)
    assert train.read(0).size == (40, 30)
    assert len(open_detection_split(str(tmp_path), "test")) == 5


@pytest.mark.parametrize(
    ("json_path", "folder"),
    [
        ("annotations/instances_{}.json", "images/{}"),
        ("annotations/{}_annotations.json", "{}"),
        ("annotations_{}.json", "images"),
        ("{}/labels.json", "{}/data"),
        ("{}/coco.json", "{}/images"),
        ("{}.json", "{}_images"),
        ("bccd_{}.json", "images"),
    ],
)
@pytest.mark.parametrize("words", [("Train", "Valid"), ("TRAINING", "val2017"), ("train", "dev")])
def test_names_of_splits(coco, tmp_path, json_path, folder, words):
    for number, word in enumerate(words):
        names = [f"{number}{n}.png" for n in range(2)]
        place = json_path.format(word), folder.format(word)
        coco([annotation(1, 10, [5, 6, 10, 20])], names, json_path=tmp_path / place[0], folder=tmp_path / place[1])
    train, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    assert [source.file_name(0) for source in (train, held_out)] == ["00.png", "10.png"]
    assert train.read(0).size == (40, 30)
    assert "training: 2 images, 1 box of 2 classes (cat 1, dog 0)" in train.description[0]


def test_two_directories_for_a_split(coco, voc, tmp_path):
    for split in ("train", "val", "Validation"):
        place = tmp_path / "coco" / split
        coco([annotation(1, 10, [5, 6, 10, 20])], json_path=place / "_annotations.coco.json", folder=place)
        made = voc({"train": {split: [DOG]}}, tmp_path / "made" / split)
        for old, new in (("Annotations", "annotations"), ("JPEGImages", "images")):
            (tmp_path / "voc" / new).mkdir(parents=True, exist_ok=True)
            (made / old).rename(tmp_path / "voc" / new / split)
    for kind in ("coco", "voc"):
        with pytest.raises(DataError, match="two directories for the val split, Validation/ and val/: move one away"):
            open_detection_splits(str(tmp_path / kind), 0.5, 0)


def test_several_files_without_a_split_in_their_names(coco, tmp_path):
    for name in ("cats.json", "dogs.json"):
        coco([annotation(1, 10, [5, 6, 10, 20])], json_path=tmp_path / name, folder=tmp_path / "images")
    with pytest.raises(DataError, match=r"holds 2 COCO files \(cats\.json, dogs\.json\): give the path of one"):
        open_detection_splits(str(tmp_path), 0.2, 0)


def test_several_files_in_the_directory_of_a_split(coco, tmp_path):
    for name in ("train/a.json", "valid/a.json", "valid/b.json", "valid/captions.json"):
        path = tmp_path / name
        coco([annotation(1, 10, [5, 6, 10, 20])], [f"{path.parent.name}.png"], json_path=path, folder=path.parent)
    with pytest.raises(DataError, match=r"valid holds 2 COCO files \(a\.json, b\.json\): give the path of one"):
        open_detection_splits(str(tmp_path), 0.5, 0)
    (tmp_path / "valid" / "b.json").unlink()
    train, held_out = open_detection_splits(str(tmp_path), 0.5, 0)
    assert [source.file_name(0) for source in (train, held_out)] == ["train.png", "valid.png"]


def test_a_test_split_that_is_not_used_is_reported(coco, tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{number}.png", f"{number}{number}.png"]
        coco(
            [annotation(1, 10, [5, 6, 10, 20])], names, json_path=tmp_path / f"{split}.json", folder=tmp_path / "images"
        )
    train, _ = open_detection_splits(str(tmp_path), 0.2, 0)
    assert "not used in training: the test split" in train.description


def test_the_same_image_in_both_splits_is_reported(coco, tmp_path):
    for split in ("train", "val"):
        names = ["same.png", f"{split}.png"]
        coco(
            [annotation(1, 10, [5, 6, 10, 20])], names, json_path=tmp_path / f"{split}.json", folder=tmp_path / "images"
        )
    Image.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / "images" / "val.png")
    _, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    assert "the same image is in both splits: 1 of the 2 held-out images" in held_out.description[-1]


DOG = ("dog", (1, 1, 4, 3))
LISTS = {
    "byte order mark": b"\xef\xbb\xbf1\n2\n",
    "UTF-16": "1\n2\n".encode("utf-16"),
    "suffixes": b"1.jpg\n2.jpg\n",
    "second column": b"1  1\n2 -1\n",
    "zeros": b"1 0\n2\t1\n",
    "Windows": b"1\r\n2\r\n",
    "directories": b"JPEGImages/1.jpg\n./JPEGImages/2.jpg\n",
    "backslashes": b"JPEGImages\\1.jpg\r\nJPEGImages\\2.jpg\r\n",
    "absolute": b"/home/somebody/voc/JPEGImages/1.jpg\n/home/somebody/voc/JPEGImages/2.jpg",
    "xml": b"1.xml\n2.xml\n",
    "blank lines": b"\n1\n\n 2 \n\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_images(voc, kind):
    root = voc({"train": {"1": [DOG], "2": [DOG]}, "val": {"3": [DOG]}})
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(LISTS[kind])
    source = VocSource(root, "train")
    assert [source.file_name(n) for n in range(2)] == ["1.jpg", "2.jpg"]


def test_ids_that_look_like_a_second_column_or_a_suffix(voc):
    root = voc({"train": {"a 1": [DOG], "a": [DOG], "b.jpg": [DOG]}})
    source = VocSource(root, "train")
    assert [source.file_name(n) for n in range(3)] == ["a 1.jpg", "a.jpg", "b.jpg.jpg"]


def test_lists_of_classes_alone(voc):
    root = voc({"train": {"1": [DOG], "2": [DOG]}, "val": {"3": [DOG]}})
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").unlink()
    (lists / "dog_train.txt").write_text("1  1\n2 -1\n")
    (lists / "cat_train.txt").write_text("1 -1\n2 -1\n")
    train, held_out = open_detection_splits(str(root), 0.2, 0)
    assert (len(train), len(held_out)) == (2, 1)


@pytest.mark.parametrize(
    ("annotations", "images", "lists"),
    [
        ("annotations", "images", "imagesets/main"),
        ("ANNOTATIONS", "jpegimages", "ImageSets"),
        ("xmls", "imgs", None),
        ("annotations/xmls", "images", None),
        ("labels", "images", None),
        (".", ".", None),
        ("set/annotations", "set/images", None),
    ],
)
def test_names_of_directories(voc, tmp_path, annotations, images, lists):
    dogs = {str(n): [DOG] for n in range(5)}
    made = voc({"train": dogs}, tmp_path / "made")
    root = tmp_path / "set of dogs"
    moves = {"Annotations": annotations, "JPEGImages": images} | ({"ImageSets/Main": lists} if lists else {})
    for old, new in moves.items():
        (root / new).mkdir(parents=True, exist_ok=True)
        for path in (made / old).iterdir():
            path.rename(root / new / path.name)
    train, held_out = open_detection_splits(str(root), 0.2, 0)
    assert (len(train), len(held_out), train.classes) == (4, 1, ["dog"])
    assert train.read(0).size == (40, 30)


def test_directories_of_splits_in_those_of_annotations_and_images(voc, tmp_path):
    for split, name in (("train", "1"), ("val", "2")):
        made = voc({"train": {name: [DOG]}}, tmp_path / "made" / split)
        for old, new in (("Annotations", "annotations"), ("JPEGImages", "images")):
            (tmp_path / "set" / new).mkdir(parents=True, exist_ok=True)
            (made / old).rename(tmp_path / "set" / new / split)
    train, held_out = open_detection_splits(str(tmp_path / "set"), 0.2, 0)
    assert [source.file_name(0) for source in (train, held_out)] == ["1.jpg", "2.jpg"]
    assert train.read(0).size == (40, 30)


def test_xml_beside_the_images_of_each_split(voc, tmp_path):
    """Roboflow's export."""
    for split, name in (("train", "1"), ("valid", "2"), ("test", "3")):
        made = voc({"train": {name: [DOG]}}, tmp_path / "made" / split)
        (tmp_path / "set" / split).mkdir(parents=True)
        for path in [*(made / "Annotations").iterdir(), *(made / "JPEGImages").iterdir()]:
            path.rename(tmp_path / "set" / split / path.name)
    train, held_out = open_detection_splits(str(tmp_path / "set"), 0.2, 0)
    assert [source.file_name(0) for source in (train, held_out)] == ["1.jpg", "2.jpg"]
    assert torch.equal(held_out.targets(0).boxes, torch.tensor([[0.0, 0, 4, 3]]))
    assert open_detection_split(str(tmp_path / "set"), "test").file_name(0) == "3.jpg"


def test_images_and_files_that_no_split_uses_are_reported(coco, tmp_path):
    for number, name in enumerate(("train", "val", "train_small", "minival")):
        coco(
            [annotation(1, 10, [5, 6, 10, 20])],
            [f"{number}.png"],
            [{"id": 3, "name": "cat"}],
            tmp_path / f"annotations/instances_{name}.json",
            tmp_path / "images",
        )
    train, _ = open_detection_splits(str(tmp_path), 0.2, 0)
    assert f"not used: 2 images in {tmp_path}/images that are in neither split" in train.description
    files = ", ".join(f"{tmp_path}/annotations/instances_{name}.json" for name in ("minival", "train_small"))
    assert any(note.startswith(f"not used: {files} (another file is of that split") for note in train.description)


@pytest.mark.parametrize(
    ("name", "text", "tool"),
    [
        ("1.json", '{"version": "5.0", "shapes": []}', "LabelMe"),
        ("via.json", '{"1.png12": {"filename": "1.png", "regions": {}}}', "VIA"),
        ("ann/1.png.json", '{"size": {"height": 9}, "objects": []}', "Supervisely"),
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", "CVAT"),
    ],
)
def test_formats_of_other_tools_are_named(tmp_path, name, text, tool):
    save_image(tmp_path / "img" / "1.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    for opened in (open_detection_splits, open_splits):
        with pytest.raises(DataError, match=f"is {tool}'s format"):
            opened(str(tmp_path), 0.2, 0)
