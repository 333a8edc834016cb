"""Errors about data that cannot be read say what to do."""

import pytest
from PIL import Image

from sasa.data.classification import open_splits
from sasa.errors import DataError


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("train.zip", "train.zip is compressed: unpack it"),
        ("set/shard.tar.gz", "shard.tar.gz is compressed: unpack it; shards must be plain .tar files"),
        ("cifar-10-batches-bin/data_batch_1.bin", "data_batch_1.bin is a format that is not read: write the images"),
        ("train/data-00000-of-00001.arrow", "00001.arrow is a format that is not read"),
        ("train_32x32.mat", "train_32x32.mat is a format that is not read"),
        ("QMNIST/raw/qmnist-test-labels-idx2-int.ubyte", "ubyte is a format that is not read"),
        ("mnist_train.csv", "mnist_train.csv has the columns label, 1x1: expected one of names"),
    ],
)
def test_other_formats(tmp_path, name, sentence):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("label,1x1\n")
    with pytest.raises(DataError, match=rf"holds no images in directories: .*; .*{sentence}"):
        open_splits(str(tmp_path), 0.2, 0)
    if not name.endswith(".csv"):
        with pytest.raises(DataError, match=sentence):
            open_splits(str(tmp_path / name), 0.2, 0)


@pytest.mark.parametrize("place", ["", "images/", "train/"])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat.0.jpg", "dog.0.jpg", "cat.1.jpg"], "cat, dog"),
        (["Abyssinian_1.jpg", "great_pyrenees_12.jpg"], "Abyssinian, great_pyrenees"),
        (["benign (1).png", "malignant (2).png"], "benign, malignant"),
    ],
)
def test_labels_in_names_of_files(tmp_path, place, names, words):
    for name in names:
        (tmp_path / place).mkdir(exist_ok=True)
        Image.new("RGB", (5, 4)).save(tmp_path / place / name)
    with pytest.raises(DataError, match=f"names of files in .* begin with {words}: if these are labels, make"):
        open_splits(str(tmp_path), 0.2, 0)
