"""Opening data sets, and reading pictures as a person would expect."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from sasa.data.pictures import read_picture
from sasa.data.sources import Digits, open_splits, split
from sasa.errors import DataError


def save_picture(path, colour=(200, 30, 30), size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def png_bytes(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folders(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        for number in range(5):
            save_picture(tmp_path / name / f"{number}.png", colour)
    return tmp_path


def write_parquet(path, labels, names=None, image="img", label="label"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [{"bytes": png_bytes((25 * n, 0, 0)), "path": f"{n}.png"} for n in labels]
    table = pa.table({image: pictures, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


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


def test_class_folders_are_split_class_by_class(folders):
    train, held_out = open_splits(str(folders), 0.2, 0)
    assert train.classes == ["blue", "red"]
    assert sorted(held_out.labels) == [0, 1]
    assert len(train) == 8
    for source in (train, held_out):
        for index, label in enumerate(source.labels):
            assert source.classes[label] in source.name(index)
            assert source.read(index).getpixel((0, 0)) == ((0, 0, 255), (255, 0, 0))[label]


def test_train_and_val_folders_are_taken_as_they_are(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    (folders / "red").rename(folders / "a")
    folders.rename(root / "train")
    save_picture(root / "val" / "a" / "x.jpg")
    train, held_out = open_splits(str(root), 0.2, 0)
    assert (len(train), len(held_out)) == (10, 1)
    assert held_out.classes == train.classes
    save_picture(root / "val" / "unseen" / "x.jpg")
    with pytest.raises(DataError, match="has a class 'unseen' that the training pictures lack"):
        open_splits(str(root), 0.2, 0)


def test_parquet_of_hugging_face(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1, 2], ["x", "y", "z"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [2, 1], ["x", "y", "z"])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [1], ["x", "y", "z"])
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == ["x", "y", "z"]
    assert list(train.labels) == [0, 1, 2, 2, 1]
    assert [train.read(i).getpixel((0, 0))[0] for i in range(5)] == [0, 25, 50, 50, 25]
    assert list(held_out.labels) == [1]


def test_parquet_without_names_numbers_its_classes(tmp_path):
    path = tmp_path / "mine.parquet"
    write_parquet(path, [0, 1] * 5, image="image")
    train, held_out = open_splits(str(path), 0.2, 0)
    assert train.classes == ["0", "1"]
    assert len(train) + len(held_out) == 10


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, "is empty"),
        (lambda p: (p / "a").mkdir(), "holds no pictures: expected a folder for each class"),
        (lambda p: (p / "a.txt").write_text("x"), "holds no pictures"),
        (lambda p: (save_picture(p / "a" / "1.png"), (p / "b").mkdir()), "b holds no pictures .1 of 2 classes empty"),
        (lambda p: (p / "x.parquet").write_bytes(b"PAR1"), "x.parquet is not a whole parquet file"),
        (
            lambda p: write_parquet(p / "x.parquet", [0, 1], image="photo"),
            "columns photo, label; expected one of image",
        ),
        (lambda p: write_parquet(p / "x.parquet", [0, -1]), "labels outside 0 to"),
        (lambda p: save_picture(p / "a" / "1.png"), "1 pictures are too few"),
    ],
)
def test_what_is_wrong_is_said_with_the_path(tmp_path, make, sentence):
    make(tmp_path)
    with pytest.raises(DataError, match=sentence):
        open_splits(str(tmp_path), 0.2, 0)


def test_nothing_there():
    with pytest.raises(DataError, match="'/nowhere' is no folder, no parquet file, and not the built-in set"):
        open_splits("/nowhere", 0.2, 0)


def test_split_refuses_too_few():
    with pytest.raises(DataError, match="too few"):
        split(type("One", (Digits,), {"__len__": lambda self: 1, "__init__": _one})(), 0.2, 0)


def _one(self):
    self.classes, self.labels = ["a"], [0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "LA", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_8_bits(tmp_path, mode, channels):
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I;16") else "x.png")
    if mode == "I;16":
        Image.fromarray(np.full((6, 9), 40000, np.uint16)).save(path)
    elif mode == "F":
        Image.fromarray(np.full((6, 9), 0.625, np.float32)).save(path)
    else:
        Image.new("L", (9, 6), 160).convert(mode).save(path)
    picture = read_picture(path, channels=channels)
    assert picture.mode == {1: "L", 3: "RGB"}[channels]
    assert picture.size == (9, 6)
    value = np.asarray(picture).mean()
    assert abs(value - (40000 >> 8 if mode == "I;16" else 160)) <= 2 or mode == "1"


def test_transparency_is_laid_on_white_and_exif_turns_upright(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a quarter turn
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (4, 8)


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "x.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_truncated_picture_and_a_text_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"x\.jpg cannot be read: .*truncated"):
        read_picture(tmp_path / "x.jpg")
    (tmp_path / "y.png").write_text("no picture")
    with pytest.raises(DataError, match=r"y\.png is not a picture"):
        read_picture(tmp_path / "y.png")
    with pytest.raises(DataError, match=r"z\.png cannot be read: .*No such file"):
        read_picture(tmp_path / "z.png")
