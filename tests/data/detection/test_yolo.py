"""YOLO's format: data.yaml, images/ and labels/."""

from itertools import pairwise

import pytest
from PIL import Image

from sasa.data.detection import DetectionSubset, YoloSource, open_detection_splits
from sasa.data.detection.yolo import label_directory, read_label_file, read_settings
from sasa.errors import DataError

# Text of a few hundred bytes, whose list would fill the memory if it were written out: each letter is nine of the last.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOMB = "a: &a [x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(LETTERS))
BOX = "1 0.5 0.5 0.25 0.2\n"  # of 40 x 30 pixels: x 15 to 25, y 12 to 18


def write(root, images, labels, files, suffix=".png"):
    """Images of different colours with their files of boxes: {name: text, or None for no file}."""
    for number, (name, text) in enumerate(files.items()):
        (root / images).mkdir(parents=True, exist_ok=True)
        (root / labels).mkdir(parents=True, exist_ok=True)
        colour = (number, len(images), sum(map(ord, images)) % 256)
        Image.new("RGB", (40, 30), colour).save(root / images / f"{name}{suffix}")
        if text is not None:
            (root / labels / f"{name}.txt").write_text(text)


YAML = "names: [cat, dog]\ntrain: images/train\nval: images/val\n"
LAYOUTS = {
    "ultralytics": ("images/{}", "labels/{}", YAML + "path: .\n"),
    "path of another machine": ("images/{}", "labels/{}", YAML + "path: /home/somebody/datasets/dogs\n"),
    "names by number": ("images/{}", "labels/{}", YAML.replace("[cat, dog]", "{0: cat, 1: dog}")),
    "absolute": ("images/{}", "labels/{}", YAML.replace(": images", ": /home/somebody/images")),
    "windows": ("images/{}", "labels/{}", YAML.replace(": images/", ": D:\\dogs\\images\\")),
    "roboflow": ("{}/images", "{}/labels", "names: [cat, dog]\nnc: 2\ntrain: ../train/images\nval: ../val/images\n"),
    "lists of directories": ("images/{}", "labels/{}", YAML.replace("images/train", "[images/train]")),
    "valid": ("images/{}", "labels/{}", YAML.replace("val:", "valid:")),
    "boxes beside the images": ("{}", "{}", YAML.replace("images/", "")),
    "without data.yaml": ("images/{}", "labels/{}", None),
    "without data.yaml, by split": ("{}/images", "{}/labels", None),
    "upper case": ("Images/{}", "Labels/{}", None),
}


def open_source(root):
    return YoloSource(read_settings(root / "data.yaml"), "train")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts(tmp_path, kind):
    images, labels, yaml = LAYOUTS[kind]
    for split, number in (("train", 3), ("val", 2)):
        write(tmp_path, images.format(split), labels.format(split), {f"{split}{n}": BOX for n in range(number)})
    if yaml:
        (tmp_path / "data.yaml").write_text(yaml)
    else:
        (tmp_path / "classes.txt").write_text("\ufeffcat\ndog\n")
    for data in (tmp_path, *([tmp_path / "data.yaml"] if yaml else [])):
        train, held_out = open_detection_splits(str(data), 0.2, 0)
        assert (len(train), len(held_out)) == (3, 2)
        assert train.classes == held_out.classes == ["cat", "dog"]
        assert train.name(0).endswith("train0.png")
        assert train.targets(0).boxes.tolist() == [[15, 12, 25, 18]]
        assert train.targets(0).labels.tolist() == [1]
        assert train.read(0).size == (40, 30)
    assert "training: 3 images, 3 boxes of 2 classes (cat 0, dog 3)" in " ".join(train.description)


@pytest.mark.parametrize("most", [0, 100])
def test_images_of_both_splits_are_reported_in_large_sets_too(tmp_path, monkeypatch, most):
    monkeypatch.setattr("sasa.data.findings.MOST_COMPARED", most)
    write(tmp_path, "images", "labels", dict.fromkeys("abc", BOX))
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images\nval: images\n")
    _, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    sentence = "the same image is in both splits: 3 of the 3 held-out images are training images, "
    assert f"{sentence}{tmp_path}/images/a.png is {tmp_path}/images/a.png" in held_out.description
    write(tmp_path, "images/train", "labels/train", {"d": BOX})
    write(tmp_path, "images/val", "labels/val", {"e": BOX})
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\nval: images/val\n")
    _, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    compared = "not compared: whether images are in both splits (more than 0 images)" not in held_out.description
    assert compared == bool(most)


def link_images(root, link):
    """Make images/val of links to two of the images in images/train, and a third image; boxes are the same."""
    write(root, "images/train", "labels/train", dict.fromkeys("abcd", BOX))
    write(root, "images/val", "labels/val", {"e": BOX})
    if link == "the directory":
        (root / "images" / "more").symlink_to(root / "images" / "train")
        return "[images/val, images/more]"
    if link == "the files":
        for name in "ab":
            (root / "images" / "val" / f"{name}.png").symlink_to(f"../train/{name}.png")
    names = ["images/train/a.png", "images/./train/../train/b.png", "images/val/e.png"]
    (root / "list.txt").write_text("\n".join(names))
    return "list.txt" if link == "a list" else "images/val"


@pytest.mark.parametrize("most", [0, 100])
@pytest.mark.parametrize(("link", "count"), [("the directory", 4), ("the files", 2), ("a list", 2)])
def test_links_and_lists_of_training_images_are_reported_in_large_sets_too(tmp_path, monkeypatch, most, link, count):
    monkeypatch.setattr("sasa.data.findings.MOST_COMPARED", most)
    held_out = link_images(tmp_path, link)
    (tmp_path / "data.yaml").write_text(f"names: [cat, dog]\ntrain: images/train\nval: {held_out}\n")
    _, held_out = open_detection_splits(str(tmp_path), 0.2, 0)
    sentence = f"{count} of the {count + 1} held-out images are training images, "
    assert sentence in " ".join(held_out.description)


@pytest.mark.parametrize("number", ["1000000", "1e300"])
def test_numbers_of_classes_that_would_fill_the_memory(tmp_path, number):
    write(tmp_path, "images", "labels", {"a": BOX, "b": BOX.replace("1", number, 1)})
    with pytest.raises(DataError, match=r"images has boxes of the class 10+\d*; expected numbers from 0 to 999999"):
        open_detection_splits(str(tmp_path), 0.5, 0)


def test_ground_truth(tmp_path):
    write(tmp_path, "images", "labels", {"a": BOX, "b": None, "c": ""})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = open_detection_splits(str(tmp_path), 0.34, 0)[0].source
    assert isinstance(source, YoloSource)
    assert [len(source.targets(n)) for n in range(3)] == [1, 0, 0]
    truth = source.coco()
    assert truth["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert truth["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [15, 12, 10, 6], "area": 60, "iscrowd": 0}
    ]
    assert source.description == [f"no file of boxes for 1 of 3 images in {tmp_path}/images: they have no objects"]
    assert len(DetectionSubset(source, [0])) == 1


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.5 0.5 1 1", (0.5, 0.5, 1, 1)),
        ("0 .25 .25 .75 .25 .75 .75", (0.5, 0.5, 0.5, 0.5)),  # an outline of three points
        ("0.0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6", (0.2, 0.4, 0.2, 0.4)),  # of four, as turned boxes have
        ("\t0  0.5\t0.5 0.2 0.2  ", (0.5, 0.5, 0.2, 0.2)),
    ],
)
def test_boxes_and_outlines(tmp_path, line, box):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\r\n" + line.encode() + b"\r\n")
    [row] = read_label_file(tmp_path / "a.txt")
    assert (row.number, row.label) == (2, 0)
    assert row.box == pytest.approx(box)


def test_key_points_are_not_outlines(tmp_path):
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2 0.1 0.1 0.9 0.9\n")
    assert read_label_file(tmp_path / "a.txt", keypoints=True)[0].box == (0.5, 0.5, 0.2, 0.2)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("3 0.5 0.5 0.1 0.1", "has the class 3, and there are 2 classes, from 0; it is left out"),
        ("cat 0.5 0.5 0.1 0.1", "has the class 'cat', not a whole number, and is left out"),
        ("-1 0.5 0.5 0.1 0.1", "has the class '-1', not a whole number, and is left out"),
        ("0.5 0.5 0.5 0.1 0.1", "has the class '0.5', not a whole number"),
        ("0 0.5 0.5 0.1", "is not a class with a box of four numbers or an outline of points ('0 0.5 0.5 0.1')"),
        ("0 0.5 0.5 0.1 0.1 0.9", "is not a class with a box of four numbers"),
        ("0 0.5 nan 0.1 0.1", "is not a class with a box of four numbers"),
        ("0,0.5,0.5,0.1,0.1", "has the class '0,0.5,0.5,0.1,0.1', not a whole number"),
        ("0 20 15 10 6", "has numbers that are not fractions of the image ('0 20 15 10 6') and is left out"),
        ("0 0.5 0.5 0 0.1", "has no area (width 0, height 3) and is left out"),
    ],
)
def test_omissions_are_reported(tmp_path, line, sentence):
    write(tmp_path, "images/train", "labels/train", {"a": BOX + line})
    (tmp_path / "data.yaml").write_text(YAML.replace("val: images/val\n", ""))
    source = open_source(tmp_path)
    assert len(source.targets(0)) == 1
    [problem] = source.problems
    assert problem.id == 2
    assert f"{tmp_path}/labels/train/a.txt: annotation 2 of a.png {sentence}" in str(problem)


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        ("names: [a\ntrain: x", r"data\.yaml is damaged: "),
        ("train: nowhere\nnames: [a]", r"data\.yaml names 'nowhere', which is not in "),
        ("train: images/train\nnames: [a, a]", r"data\.yaml names the class 'a' twice"),
        ("train: images/train\nnames: {1: a, 2: b}", r"must name the classes 0 to 1; it names 1, 2"),
        ("train: images/train\nnames: [a, b]\nnc: 3", r"data\.yaml names 2 classes, and its nc is 3"),
        ("train: images/train\nnames: dogs", r"must have a list of classes as 'names'; it has 'dogs'"),
        (BOMB + "train: *z\nnames: [a]", r"data\.yaml must name directories or lists as 'train'; it has \[\["),
        (BOMB + "train: images/train\nnames: *z", r"must have a list of classes as 'names'; it has \[\["),
        ("train: empty\nnames: [a]", r"empty holds no images"),
        ("train: images/train\nnames: [a]\nval: images/bare", r"bare: none of 1 images has a file of boxes, such as "),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, yaml, sentence):
    write(tmp_path, "images/train", "labels/train", {"a": BOX.replace("1 ", "0 ", 1)})
    write(tmp_path, "images/bare", "labels/bare", {"b": None})
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=sentence):
        open_detection_splits(str(tmp_path), 0.2, 0)


@pytest.mark.parametrize("place", ["{}", "images/{}", "{}/images"])
def test_two_directories_for_a_split(tmp_path, place):
    for split in ("train", "val", "valid"):
        images = place.format(split)
        write(tmp_path, images, images.replace("images", "labels"), {"a": BOX, "b": BOX})
    with pytest.raises(DataError, match="holds two directories for the val split, val/ and valid/: move one away"):
        open_detection_splits(str(tmp_path), 0.5, 0)


def test_a_missing_test_split(tmp_path):
    write(tmp_path, "images/train", "labels/train", {"a": BOX, "b": BOX})
    (tmp_path / "data.yaml").write_text("train: images/train\ntest: ../test/images\nnames: [cat, dog]\n")
    assert len(open_detection_splits(str(tmp_path), 0.5, 0)[0]) == 1


def test_a_list_of_images(tmp_path):
    write(tmp_path, "images/train", "labels/train", {"a": BOX, "b": BOX, "c": BOX})
    (tmp_path / "train.txt").write_text("./images/train/a.png\n/home/somebody/images/train/b.png\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]\n")
    source = open_source(tmp_path)
    assert [source.file_name(n) for n in range(len(source))] == ["a.png", "b.png"]
    assert "1 names of images" in source.description[0]


def test_lists_of_darknet(tmp_path):
    """CVAT's export in YOLO 1.1."""
    write(tmp_path, "obj_train_data", "obj_train_data", {"a": BOX, "b": BOX})
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    train, held_out = open_detection_splits(str(tmp_path), 0.5, 0)
    assert (len(train), len(held_out), train.classes) == (1, 1, ["cat", "dog"])


@pytest.mark.parametrize("splits", [[""], ["train/", "valid/"]])
def test_text_files_beside_the_images(tmp_path, splits):
    for split in splits:
        write(tmp_path, f"{split}", f"{split}", {"a": BOX, "b": BOX, "c": None, "d": ""})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    train, held_out = open_detection_splits(str(tmp_path), 0.25, 0)
    assert (len(train), len(held_out)) == ((4, 4) if splits[0] else (3, 1))
    assert sum(len(source.targets(n)) for source in (train, held_out) for n in range(len(source))) == 2 * len(splits)


def test_runs_beside_the_images_are_not_images(tmp_path):
    """As after `sasa detect train --data .` in the directory of the data."""
    write(tmp_path, "", "", {"a": BOX, "b": BOX, "c": BOX, "d": BOX})
    write(tmp_path, "runs/one/drawn", "runs/one/drawn", {"curves": None})
    (tmp_path / "runs" / "one" / "environment.json").write_text("{}")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    train, held_out = open_detection_splits(str(tmp_path), 0.25, 0)
    assert (len(train), len(held_out)) == (3, 1)
    assert any(f"not used: {tmp_path}/runs (runs of sasa train)" in sentence for sentence in train.description)


@pytest.mark.parametrize("text", ["a cat on a mat", "caf\xe9".encode("latin-1"), "0.5", "1 2 3"])
def test_text_files_of_other_kinds_are_not_boxes(tmp_path, text):
    write(tmp_path, "", "", {"a": None})
    (tmp_path / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"it holds images without boxes; looked for .* labels/"):
        open_detection_splits(str(tmp_path), 0.5, 0)


def test_notes_of_label_studio_are_not_coco(tmp_path):
    write(tmp_path, "images", "labels", {"a": BOX, "b": BOX})
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}}')
    assert len(open_detection_splits(str(tmp_path), 0.5, 0)[0]) == 1


def test_where_boxes_are(tmp_path):
    write(tmp_path, "images/images/x", "images/labels/x", {"a": BOX})
    assert label_directory(tmp_path / "images/images/x") == tmp_path / "images/labels/x"
    assert label_directory(tmp_path / "other") == tmp_path / "other"


@pytest.mark.parametrize("name", ["b.TXT", "B.txt", "b.png.txt", "b.PNG.txt"])
def test_names_of_files_of_boxes(tmp_path, name):
    write(tmp_path, "images/train", "labels/train", {"a": BOX, "b": None})
    (tmp_path / "labels" / "train" / name).write_text(BOX)
    (tmp_path / "labels" / "train" / "gone.txt").write_text(BOX)
    (tmp_path / "data.yaml").write_text(YAML.replace("val: images/val\n", ""))
    source = open_source(tmp_path)
    assert [len(source.targets(n)) for n in range(2)] == [1, 1]
    assert source.description == [
        f"not used: 1 files of boxes without an image, such as {tmp_path}/labels/train/gone.txt"
    ]


def test_names_of_files_of_boxes_in_upper_and_lower_case(tmp_path):
    write(tmp_path, "images", "labels", {"A": BOX, "a": BOX * 2 + "0 0.5 0.5 0.1 0.1\n", "B": None, "b": BOX})
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images\n")
    source = open_source(tmp_path)
    assert [len(source.targets(n)) for n in range(4)] == [1, 1, 2, 1]  # A, B with the file of b, a, b
    labels, images = tmp_path / "labels", tmp_path / "images"
    shared = f"the same file of boxes for several images: {labels}/b.txt for {images}/B.png, {images}/b.png"
    assert source.description == [shared]


def test_a_file_of_boxes_for_two_images_is_reported(tmp_path):
    write(tmp_path, "images", "labels", {"a": BOX, "b": BOX, "c": BOX})
    for name in "ab":
        Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "images" / f"{name}.jpg")
    train, _ = open_detection_splits(str(tmp_path), 0.25, 0)
    images = f"{tmp_path}/images/a.jpg, {tmp_path}/images/a.png"
    sentence = f"the same file of boxes for several images: {tmp_path}/labels/a.txt for {images} (2 such files)"
    assert sentence in train.description


def test_an_image_whose_size_cannot_be_read_is_left_to_on_bad_image(tmp_path):
    write(tmp_path, "images", "labels", {"a": BOX, "b": BOX, "c": BOX})
    (tmp_path / "images" / "b.png").write_bytes(b"")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images\n")
    source = open_source(tmp_path)
    assert list(map(str, source.problems)) == [f"{tmp_path}/images: b.png is not an image that can be read"]
    assert source.targets(2).boxes.tolist() == [[15.0, 12.0, 25.0, 18.0]]
    with pytest.raises(DataError, match=r"b\.png is empty: an image of 0 bytes"):
        source.read(1)


@pytest.mark.parametrize("line", ["names: [cat]", "path: .", "names:\n  0: cat\n  0: dog"])
def test_a_key_that_occurs_twice(tmp_path, line):
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images\nnames: [dog]\n{line}\n")
    with pytest.raises(DataError, match=r"data\.yaml is damaged: the key '(names|path|0)' occurs twice"):
        read_settings(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ('{"0": cat, "1": dog}', ["cat", "dog"]),
        ("[no, yes]", ["no", "yes"]),
        ("[01, 1]", ["01", "1"]),
        ("[null, 1.10]", ["null", "1.10"]),
        ("[' cat', caf\u0065\u0301]", ["cat", "caf\u00e9"]),
    ],
)
def test_names_are_read_as_written(tmp_path, names, classes):
    write(tmp_path, "images/train", "labels/train", {"a": BOX})
    (tmp_path / "data.yaml").write_text(f"names: {names}\nnc: 2\ntrain: images/train\nval:\ntest: null\n")
    assert open_source(tmp_path).classes == classes


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        (
            ["1 .5 .5 .2 .2", "2 .5 .5 .2 .2"],
            "train has boxes of the classes 1 to 2, and none of 0: expected numbers from 0",
        ),
        (
            ["0 .4 .5 .9 .95", "1 .3 .5 .9 .95", "0 .1 .1 .3 .3", "0 .7 .7 .9 .9"],
            "100% reach beyond their images, .* if they were left, top, right, bottom: expected centre x, centre y",
        ),
    ],
)
def test_numbers_with_another_meaning(tmp_path, boxes, sentence):
    write(tmp_path, "images/train", "labels/train", {"a": "\n".join(boxes)})
    (tmp_path / "data.yaml").write_text(YAML.replace("val: images/val\n", ""))
    with pytest.raises(DataError, match=sentence):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "points", ["0.45 0.5 0.55 0.5 0.5 0.55", "0.45 0.5 2 0.55 0.5 2", "0.45 0.5 1", "0 0 0 0.5 0.5 2"]
)
def test_key_points_without_a_data_yaml(tmp_path, points):
    write(tmp_path, "images", "labels", {str(n): f"1 0.5 0.5 0.25 0.2 {points}\n" for n in range(6)})
    train, _ = open_detection_splits(str(tmp_path), 0.34, 0)
    assert train.targets(0).boxes.tolist() == [[15, 12, 25, 18]]
    assert "taken for key points" in train.description[0]


OUTLINES = ["0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5", "0.1 0.1 0.5 0.1 0.5 0.5 0.3 0.6 0.1 0.5"]


@pytest.mark.parametrize("outline", OUTLINES)
def test_outlines_of_equally_many_points_are_not_key_points(tmp_path, outline):
    write(tmp_path, "images", "labels", {str(n): f"0 {outline}\n" for n in range(6)})
    train, _ = open_detection_splits(str(tmp_path), 0.34, 0)
    left, top = train.targets(0).boxes.tolist()[0][:2]
    assert (left, top) == pytest.approx((4, 3))
