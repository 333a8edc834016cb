"""Class directories whose splits are lists, and held-out images with a table, as published sets have them."""

import pytest
from PIL import Image

from sasa.data.classification import open_splits
from sasa.errors import DataError

CLASSES = ("cat", "dog")
TRAIN, TEST = range(3), range(3, 5)


def save(root, names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (number, len(name), 0)).save(root / name)


def lines(numbers, line):
    return "".join(line.format(c=c, n=n, label=CLASSES.index(c)) + "\n" for c in CLASSES for n in numbers)


# name -> (directory of the classes, lists, a line of them)
LAYOUTS = {
    "Food-101": ("food-101/images", ("food-101/meta/train.txt", "food-101/meta/test.txt"), "{c}/{n}"),
    "MIT Indoor": ("Images", ("TrainImages.txt", "TestImages.txt"), "{c}/{n}.jpg"),
    "DTD": ("images", ("labels/train1.txt", "labels/val1.txt"), "{c}/{n}.jpg"),
    "Caffe": ("images", ("train.txt", "val.txt"), "images/{c}/{n}.jpg {label}"),
    "Places": ("images", ("filelists/places_train.txt", "filelists/places_val.txt"), "/{c}/{n}.jpg {label}"),
    "Windows": (".", ("train.txt", "val.txt"), "C:\\set\\{c}\\{n}.jpg"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_lists(tmp_path, kind):
    directory, (train_list, test_list), line = LAYOUTS[kind]
    save(tmp_path / directory, [f"{c}/{n}.jpg" for c in CLASSES for n in (*TRAIN, *TEST, 9)])
    for path, numbers in ((train_list, TRAIN), (test_list, TEST)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(lines(numbers, line))
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == held_out.classes == list(CLASSES)
    assert [train.name(n)[-9:] for n in range(6)] == [f"{c}/{n}.jpg" for c in CLASSES for n in TRAIN]
    assert [held_out.name(n)[-9:] for n in range(4)] == [f"{c}/{n}.jpg" for c in CLASSES for n in TEST]
    assert list(train.labels) == [0, 0, 0, 1, 1, 1]
    assert f"split by {tmp_path / train_list} and {tmp_path / test_list}" in train.description
    assert "not used: 2 images that are on neither list" in train.description


def test_images_on_both_lists_are_reported(tmp_path):
    save(tmp_path / "images", [f"{c}/{n}.jpg" for c in CLASSES for n in (*TRAIN, *TEST)])
    for path, numbers in (("train.txt", (*TRAIN, 3)), ("val.txt", TEST)):
        (tmp_path / path).write_text(lines(numbers, "{c}/{n}.jpg"))
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert (len(train), len(held_out)) == (8, 4)
    assert "the same image is in both splits: 2 images are on both lists" in train.description


def test_cub(tmp_path):
    names = [f"{n}.{c}/{c}_{k}.jpg" for n, c in enumerate(CLASSES, 1) for k in range(4)]
    save(tmp_path / "images", names)
    (tmp_path / "images.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(names, 1)))
    (tmp_path / "train_test_split.txt").write_text("".join(f"{n} {n % 4 // 3}\n" for n in range(1, 9)))
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert [train.name(n).rpartition("/")[2] for n in range(2)] == ["cat_2.jpg", "dog_2.jpg"]
    assert len(held_out) == 6


@pytest.mark.parametrize("text", ["cat\ndog\n", "elsewhere/1.jpg\n", "train on these\n"])
def test_texts_of_other_kinds_are_not_lists(tmp_path, text):
    save(tmp_path, [f"{c}/{n}.jpg" for c in CLASSES for n in TRAIN])
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text(text)
    train, _ = open_splits(str(tmp_path), 0.34, 0)
    assert "split by" not in " ".join(train.description)


def test_a_list_of_images_that_are_not_there(tmp_path):
    save(tmp_path, [f"{c}/{n}.jpg" for c in CLASSES for n in TRAIN])
    (tmp_path / "train.txt").write_text("cat/0.jpg\ncat/7.jpg\n")
    (tmp_path / "test.txt").write_text("dog/0.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt names 2 images, of which 1 are not in .*: cat/7\.jpg"):
        open_splits(str(tmp_path), 0.2, 0)


# name -> (directory of the held-out images, their table, its first line, a line)
TABLES = {
    "Tiny ImageNet": ("val/images", "val/val_annotations.txt", "", "{n}.jpg\t{c}\t0\t0\t62\t62"),
    "GTSRB": ("Test", "Test.csv", "Width,ClassId,Path\n", "30,{c},Test/{n}.jpg"),
    "beside the images": ("test", "test/labels.csv", "file_name;label\n", "{n}.jpg;{c}"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_held_out_images_with_a_table(tmp_path, kind):
    directory, table, header, line = TABLES[kind]
    save(tmp_path / "train", [f"{c}/images/{n}.jpg" for c in CLASSES for n in TRAIN])
    save(tmp_path / directory, ["0.jpg", "1.jpg", "2.jpg"])
    rows = [line.format(n=n, c=CLASSES[n % 2]) for n in range(3)]
    (tmp_path / table).write_text(header + "\n".join(rows))
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert (len(train), train.classes, held_out.classes) == (6, list(CLASSES), list(CLASSES))
    assert list(held_out.labels) == [0, 1, 0]
    assert held_out.name(1) == str(tmp_path / directory / "1.jpg")
    assert not any(note.startswith("not used") for note in train.description)


def test_a_table_of_other_classes_is_not_used(tmp_path):
    save(tmp_path / "train", [f"{c}/{n}.jpg" for c in CLASSES for n in TRAIN])
    save(tmp_path / "val", ["0.jpg"])
    (tmp_path / "val" / "val_annotations.txt").write_text("0.jpg\tcow\n")
    train, _ = open_splits(str(tmp_path), 0.34, 0)
    assert f"not used: {tmp_path}/val/ (its images are in no directories of classes)" in train.description
