"""Class directories, in ImageNet's layout."""

import os
import pickle
from pathlib import Path

import pytest

from image_files import save_image
from sasa.data.classification import ClassFolders, open_splits
from sasa.data.text import NameTable, printable
from sasa.errors import DataError


@pytest.fixture
def folders(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        for number in range(5):
            save_image(tmp_path / name / f"{number}.png", colour)
    return tmp_path


def test_class_directories_are_split_class_by_class(folders):
    train, held_out = open_splits(str(folders), 0.2, 0)
    assert train.classes == ["blue", "red"]
    assert sorted(held_out.labels) == [0, 1]
    assert len(train) == 8
    for source in (train, held_out):
        for index, label in enumerate(source.labels):
            assert source.classes[label] in source.name(index)
            assert source.read(index).getpixel((0, 0)) == ((0, 0, 255), (255, 0, 0))[label]


def test_train_and_val_directories_are_the_splits(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    (folders / "red").rename(folders / "a")
    folders.rename(root / "train")
    save_image(root / "val" / "a" / "x.jpg")
    train, held_out = open_splits(str(root), 0.2, 0)
    assert (len(train), len(held_out)) == (10, 1)
    assert held_out.classes == train.classes
    save_image(root / "val" / "unseen" / "x.jpg")
    with pytest.raises(DataError, match="has a class 'unseen' that the training images lack"):
        open_splits(str(root), 0.2, 0)


def test_imagenet_names_and_order(tmp_path):
    for name in ("train/n01440764/n01440764_18.JPEG", "train/n01440764/n01440764_9.JPEG", "train/n01443537/a.JPEG"):
        save_image(tmp_path / name)
    save_image(tmp_path / "val" / "n01443537" / "ILSVRC2012_val_00000236.JPEG")
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == ["n01440764", "n01443537"]
    assert [Path(train.name(n)).name for n in range(3)] == ["n01440764_18.JPEG", "n01440764_9.JPEG", "a.JPEG"]
    assert list(held_out.labels) == [1]  # the first class has no image in val/, and keeps its number
    assert train.groups is None


def test_directories_within_classes_links_and_hidden_names(tmp_path):
    save_image(tmp_path / "elsewhere" / "1.png", (0, 255, 0))
    root = tmp_path / "set"
    save_image(root / "a" / "deep" / "er" / "1.png")
    save_image(root / "a" / ".hidden" / "2.png")
    save_image(root / "a" / "._1.png")
    save_image(root / ".trash" / "3.png")
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / "circle").symlink_to(root / "a")
    (root / "a" / "folder.png").mkdir()
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    source = ClassFolders(root)
    assert source.classes == ["a", "b"]
    assert [source.name(n) for n in range(3)] == [str(root / p) for p in ("a/deep/er/1.png", "a/linked.png", "b/1.png")]
    assert list(source.labels) == [0, 0, 1]
    assert source.read(2).getpixel((0, 0)) == (0, 255, 0)


def test_a_broken_link_is_an_error(tmp_path):
    save_image(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"a/2\.png is a link that leads to no file"):
        ClassFolders(tmp_path)


@pytest.mark.parametrize(
    ("link", "target", "sentence"),
    [
        ("c", "gone", "set/c is a link that leads nowhere"),
        ("c", "a", "set has two directories of one class, 'a' and 'c'"),
    ],
)
def test_links_that_are_not_classes(tmp_path, link, target, sentence):
    save_image(tmp_path / "set" / "a" / "1.png")
    save_image(tmp_path / "set" / "b" / "1.png")
    (tmp_path / "set" / link).symlink_to(tmp_path / "set" / target)
    with pytest.raises(DataError, match=sentence):
        ClassFolders(tmp_path / "set")


@pytest.mark.parametrize("target", ["set", "."])
def test_a_link_to_a_directory_above_is_not_a_class(tmp_path, target):
    save_image(tmp_path / "set" / "a" / "1.png")
    save_image(tmp_path / "set" / "b" / "1.png")
    (tmp_path / "set" / "latest").symlink_to(tmp_path / target)
    source = ClassFolders(tmp_path / "set")
    assert source.classes == ["a", "b"]
    assert source.description == [f"not used: {tmp_path}/set/latest/ (a link to a directory that holds it)"]


def test_names_of_classes_are_compared_as_they_are_read(tmp_path):
    for split, names in (("train", ["cat ", "caf\u0065\u0301"]), ("val", ["cat", "caf\u00e9"])):
        for name in names:
            save_image(tmp_path / split / name / "1.png")
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == held_out.classes == ["caf\u00e9", "cat"]
    assert list(train.labels) == list(held_out.labels) == [0, 1]
    assert train.read(0).size == (20, 12)
    save_image(tmp_path / "val" / "cat " / "1.png")
    with pytest.raises(DataError, match="val has two directories of one class, 'cat' and 'cat '"):
        open_splits(str(tmp_path), 0.2, 0)


def test_names_that_are_not_utf8_can_be_read_and_printed(tmp_path):
    save_image(tmp_path / "a" / "1.png")
    save_image(tmp_path / os.fsdecode(b"caf\xe9") / os.fsdecode(b"\xff.png"), (1, 2, 3))
    source = pickle.loads(pickle.dumps(ClassFolders(tmp_path)))
    assert source.read(1).getpixel((0, 0)) == (1, 2, 3)
    assert source.name(1).encode("utf-8").endswith(rb"caf\xe9/\xff.png")
    assert source.classes == ["a", r"caf\xe9"]


def test_names_with_line_breaks_and_escapes_stay_in_their_line(tmp_path):
    names = ["a\nb", "\x1b[31m", "e\u0301 \u3000x"]
    for number, name in enumerate(names):
        for image in ("1\n.png", "2.png"):
            save_image(tmp_path / name / image, (number, len(image), 0))
    train, held_out = open_splits(str(tmp_path), 0.5, 0)
    assert train.classes == [r"\x1b[31m", r"a\nb", "\u00e9 \u3000x"]
    said = [*train.description, *held_out.description, *(s.name(i) for s in (train, held_out) for i in range(3))]
    assert not [sentence for sentence in said if "\n" in sentence or "\x1b" in sentence]


def test_classes_that_look_alike_are_reported(tmp_path):
    for number, name in enumerate(["Cat", "big  dog", "big dog", "caT", "cat", "fox", "fo\u200bx"]):
        for image in range(2):
            save_image(tmp_path / name / f"{image}.png", (number, image, 0))
    description = open_splits(str(tmp_path), 0.5, 0)[0].description
    assert "classes that differ in upper and lower case only: Cat, caT, cat" in description
    what = "classes that differ in case, spaces or invisible characters only"
    assert f"{what}: 'big  dog', 'big dog'" in description
    assert rf"{what}: 'fox', 'fo\u200bx'" in description


def test_many_names_take_little_memory():
    names = [f"n01440764/n01440764_{n}.JPEG" for n in range(1000)]
    table = NameTable(names)
    assert [table[n] for n in range(len(table))] == names
    assert len(pickle.dumps(table)) < 40 * len(names)
    assert printable("plain") == "plain"


def test_images_without_class_directories(tmp_path):
    save_image(tmp_path / "1.png")
    with pytest.raises(
        DataError, match=r"expected a directory for each class .*; looked for .*\.tar shards.*MNIST/raw/"
    ):
        open_splits(str(tmp_path), 0.2, 0)
