"""Pascal VOC's format."""

import pickle
import shutil

import pytest
from PIL import Image

from sasa.data.detection import DetectionSubset, VocSource, open_detection_splits
from sasa.errors import DataError

DOG = ("dog", (1, 1, 4, 3))
TRAIN = {"train": {"2007_1": [DOG, ("cat", (5, 6, 40, 30), 1)], "2007_2": []}}


def test_boxes_count_from_1_with_the_last_pixel_in_and_difficult_objects_are_crowds(voc):
    root = voc(TRAIN)
    source = pickle.loads(pickle.dumps(VocSource(root, "train")))
    assert (source.classes, source.category_ids, len(source)) == (["cat", "dog"], [1, 2], 2)
    targets = source.targets(0)
    assert targets.boxes.tolist() == [[0, 0, 4, 3], [4, 5, 40, 30]]
    assert (targets.labels.tolist(), targets.crowd.tolist()) == ([1, 0], [False, True])
    assert len(source.targets(1)) == 0
    assert source.name(0) == str(root / "JPEGImages" / "2007_1.jpg")
    assert (source.size(0), source.read(0).size, source.problems) == ((30, 40), (40, 30), [])


def test_ground_truth_in_coco_format(voc):
    truth = VocSource(voc(TRAIN), "train").coco()
    assert truth["images"] == [{"id": n, "file_name": f"2007_{n}.jpg", "height": 30, "width": 40} for n in (1, 2)]
    assert truth["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert truth["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 4, 3], "area": 12, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [4, 5, 36, 25], "area": 900, "iscrowd": 1},
    ]


def test_classes_are_those_of_the_training_images(voc):
    root = voc({**TRAIN, "val": {"3": [DOG]}, "trainval": {"3": [DOG]}})
    assert VocSource(root, "val").classes == ["cat", "dog"]
    assert VocSource(root, "trainval").classes == ["dog"]
    assert VocSource(root, ["3"]).classes == ["dog"]
    assert VocSource(root, "val", ["ant", "dog"]).targets(0).labels.tolist() == [1]
    with pytest.raises(DataError, match=r"3\.xml has a class 'dog' that the training images lack"):
        VocSource(root, "val", ["cat"])


def test_images_of_other_formats_than_jpeg(voc):
    root = voc(TRAIN, suffix=".png")
    assert VocSource(root, "train").name(1).endswith("2007_2.png")


def write_xml(root, text):
    (root / "Annotations" / "2007_1.xml").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("<annotation><size>", r"2007_1\.xml is damaged: not XML \(no element found: line 1"),
        ("", r"2007_1\.xml is damaged: not XML"),
        (b"<annotation>\xff</annotation>", r"2007_1\.xml is damaged"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', r"2007_1\.xml is damaged"),
        ("<html></html>", r"2007_1\.xml is not Pascal VOC's: it holds <html> instead of <annotation>"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>',
            r"2007_1\.xml has a DOCTYPE, which annotations do not need",
        ),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'.encode("utf-16"), r"2007_1\.xml has a DOCTYPE"),
    ],
)
def test_damaged_files(voc, xml, sentence):
    root = voc(TRAIN)
    write_xml(root, xml)
    with pytest.raises(DataError, match=sentence):
        VocSource(root, "train")


SIZE = "<size><width>40</width><height>30</height></size>"
BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9.5</ymax></bndbox>"


@pytest.mark.parametrize(
    ("xml", "identity", "sentence"),
    [
        (f"{SIZE}<object><name>dog</name></object>", 2, "annotation 2 of 2007_1.jpg has no bndbox and is left out"),
        (f"{SIZE}<object>{BOX}</object>", 2, "annotation 2 of 2007_1.jpg has no name and is left out"),
        (
            f"{SIZE}<object><name>dog</name><bndbox><xmin>nan</xmin><ymin>x</ymin></bndbox></object>",
            2,
            "annotation 2 of 2007_1.jpg has a bndbox that is not four finite numbers ('nan', 'x', None, None) and is",
        ),
        (
            f"{SIZE}<object><name>dog</name>{BOX.replace('9.5', '1')}</object>",
            2,
            "annotation 2 of 2007_1.jpg has no area (width 8, height -1) and is left out",
        ),
        ("", None, "2007_1.jpg has no size there: that of the image file is taken"),
        (SIZE.replace("40", "0"), None, "2007_1.jpg has no size there: that of the image file is taken"),
    ],
)
def test_omissions_are_reported(voc, xml, identity, sentence):
    root = voc(TRAIN)
    write_xml(root, f"<annotation><object><name> dog </name>{BOX}</object>{xml}</annotation>")
    source = VocSource(root, "train")
    assert source.targets(0).boxes.tolist() == [[1, 2, 9, 9.5]]
    assert source.size(0) == (30, 40)
    [problem] = source.problems
    assert problem.id == identity
    assert f"2007_1.xml: {sentence}" in str(problem)
    assert DetectionSubset(source, [1]).problems == []
    assert DetectionSubset(source, [0]).problems == [problem]


def test_parts_of_an_object_are_not_its_box(voc):
    root = voc(TRAIN)
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    write_xml(root, f"<annotation>{SIZE}<object>{part}<name>dog</name>{BOX}</object></annotation>")
    source = VocSource(root, "train")
    assert (source.classes, source.targets(0).boxes.tolist()) == (["dog"], [[1, 2, 9, 9.5]])


def test_lists_and_files_that_are_missing_or_wrong(voc):
    root = voc(TRAIN)
    lists = root / "ImageSets" / "Main"
    with pytest.raises(DataError, match=r"has no list val\.txt of images in ImageSets/Main/"):
        VocSource(root, "val")
    for text, sentence in (
        (b"\n", r"val\.txt lists no images"),
        (b"2007_1\n2007_1\n", r"val\.txt lists '2007_1' twice"),
        (b"../x\n", r"val\.txt names 1 images, of which 1 are not in .*JPEGImages: \.\./x"),
        (b"x\ny\n2007_1\n", r"val\.txt names 3 images, of which 2 are not in .*JPEGImages: x and others"),
        (b"\xff\n", r"val\.txt cannot be read as UTF-8 text"),
        (b"2007_2\n", r"val\.txt has no boxes"),
    ):
        (lists / "val.txt").write_bytes(text)
        with pytest.raises(DataError, match=sentence):
            VocSource(root, "val")
    (root / "Annotations" / "2007_2.xml").unlink()
    with pytest.raises(DataError, match=r"2007_2\.xml cannot be read: No such file"):
        VocSource(root, "train")


def test_an_image_of_another_size_than_was_annotated(voc):
    root = voc(TRAIN)
    Image.new("RGB", (8, 9)).save(root / "JPEGImages" / "2007_1.jpg")
    with pytest.raises(DataError, match=r"2007_1\.jpg is 9 x 8 pixels when upright, but was annotated as 30 x 40"):
        VocSource(root, "train").read(0)


def test_fractions_are_not_pixels(voc):
    root = voc({"train": {"1": [("dog", (0.1, 0.2, 0.5, 0.6))]}})
    with pytest.raises(DataError, match=r"has boxes in fractions of the images, up to 0\.6: expected pixels"):
        VocSource(root, "train")


def test_images_without_a_file_are_reported(voc):
    root = voc({"train": {str(n): [("dog", (1, 1, 4, 3))] for n in range(4)}})
    shutil.rmtree(root / "ImageSets")
    (root / "Annotations" / "3.xml").unlink()
    train, _ = open_detection_splits(str(root), 0.34, 0)
    assert f"not used: 1 images in {root}/JPEGImages that are in neither split" in train.description
