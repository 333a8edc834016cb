"""Opening data sets by one string: the format is recognised from the files."""

import tarfile

import numpy as np
import pytest
from sklearn.datasets import load_digits

from image_files import save_image, write_parquet
from sasa.data.classification import Digits, Pixels, Subset, open_splits, split
from sasa.errors import DataError


def test_digits_have_ten_classes_and_split_the_same_way_every_time():
    train, held_out = open_splits("digits", 0.2, 0)
    again, _ = open_splits("digits", 0.2, 0)
    other, _ = open_splits("digits", 0.2, 1)
    assert len(train) + len(held_out) == len(Digits()) == 1797
    assert 355 <= len(held_out) <= 365
    assert not set(train.indices) & set(held_out.indices)
    assert train.indices == again.indices != other.indices
    assert set(held_out.labels) == set(range(10))
    assert train.read(0).size == (8, 8)
    assert max(np.asarray(train.read(n)).max() for n in range(20)) == 255


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, "is empty"),
        (lambda p: (p / "a").mkdir(), "holds no images in directories: expected a directory for each class"),
        (lambda p: (p / "a.txt").write_text("x"), "holds no images"),
        (lambda p: (save_image(p / "a" / "1.png"), (p / "b").mkdir()), "b holds no images .1 of 2 classes empty"),
        (lambda p: (p / "x.parquet").write_bytes(b"PAR1"), "x.parquet is not a whole parquet file"),
        (
            lambda p: write_parquet(p / "x.parquet", [0, 1], image="photo"),
            "columns photo, label; expected one of image",
        ),
        (lambda p: write_parquet(p / "x.parquet", [0, -2]), "has the label -2, and labels outside 0 to"),
        (lambda p: save_image(p / "a" / "1.png"), "holds images of one class only, 'a' .1 images."),
    ],
)
def test_errors_name_the_path(tmp_path, make, sentence):
    make(tmp_path)
    with pytest.raises(DataError, match=sentence):
        open_splits(str(tmp_path), 0.2, 0)


def test_a_path_that_does_not_exist():
    sentence = (
        "'/nowhere' is not a directory, a parquet, tar, CSV or JSONL file, a pattern of tar files, or the built-in set"
    )
    with pytest.raises(DataError, match=sentence):
        open_splits("/nowhere", 0.2, 0)


def test_two_kinds_of_data_in_a_directory(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1])
    with tarfile.open(tmp_path / "train.tar", "w"):
        pass
    with pytest.raises(DataError, match="holds parquet files and tar files: give the path of the one that is meant"):
        open_splits(str(tmp_path), 0.2, 0)


@pytest.mark.parametrize("folder", ["cat", "train/cat"])
def test_an_archive_beside_its_content(tmp_path, folder):
    save_image(tmp_path / folder / "1.png")
    save_image(tmp_path / folder / "2.png")
    save_image(tmp_path / folder.replace("cat", "dog") / "3.png")
    (tmp_path / "download.tar.gz").write_bytes(b"x")
    assert sum(len(source) for source in open_splits(str(tmp_path), 0.5, 0)) == 3
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"holds tar files and class directories: give .* or move the others away"):
        open_splits(str(tmp_path), 0.2, 0)


def test_many_classes_are_split_as_few_are():
    labels = np.random.default_rng(0).integers(0, 50, 2000).tolist()
    source = Pixels(np.zeros((2000, 1, 1), np.uint8), labels, [str(n) for n in range(60)], "pixel")
    train, held_out = split(source, 0.2, 3)
    generator, expected = np.random.default_rng(3), []
    for label in range(60):
        members = generator.permutation(np.flatnonzero(np.asarray(labels) == label)).tolist()
        expected += members[: round(len(members) * 0.2)]
    assert held_out.indices == sorted(expected)
    assert len(train) + len(held_out) == 2000


def test_groups_pass_through_subsets():
    source = Digits()
    assert source.groups is None
    assert Subset(source, [1, 2]).groups is None
    source.groups = [n // 100 for n in range(len(source))]
    assert Subset(Subset(source, [5, 300, 700]), [2, 0]).groups == [7, 0]


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_class_of_two_images_has_one_in_each_split(fraction):
    source = Pixels(np.zeros((5, 1, 1), np.uint8), [0, 0, 1, 1, 2], list("abc"), "pixel")
    train, held_out = split(source, fraction, 0)
    assert sorted(train.labels) == [0, 1, 2]
    assert sorted(held_out.labels) == [0, 1]


def test_split_refuses_classes_of_one_image():
    with pytest.raises(DataError, match="no image can be held out: 2 images, each the only one of its class"):
        split(Pixels(np.zeros((2, 1, 1), np.uint8), [0, 2], list("abc"), "pixel"), 0.5, 0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_fraction_that_holds_out_nothing_or_all(fraction):
    with pytest.raises(DataError, match=rf"no held-out images of its own: held_out must be .* got {fraction:g}"):
        open_splits("digits", fraction, 0)


@pytest.mark.parametrize("packaged", [True, False])
def test_digits_are_those_of_scikit_learn(packaged, monkeypatch):
    if not packaged:
        monkeypatch.setattr("sasa.data.classification.source.find_spec", lambda name: None)
    digits, expected = Digits(), load_digits()
    assert digits.labels == expected.target.tolist()
    assert np.array_equal(digits._pixels, np.minimum(expected.images * 16, 255).astype(np.uint8))
