"""Hugging Face's parquet files: in memory and by row groups, and images that lie beside the file."""

import json
import os
import pickle
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_files import png_bytes, write_many, write_parquet
from sasa.data.classification import ImageParquet, open_splits
from sasa.errors import DataError


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


def test_two_classes_of_one_name(tmp_path):
    write_parquet(tmp_path / "x.parquet", [0, 1], ["cat", "cat"])
    with pytest.raises(DataError, match=r"x\.parquet has two classes of the name 'cat'"):
        open_splits(str(tmp_path), 0.5, 0)


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("plain_text/train-00000-of-00002.parquet", "plain_text/train-1.parquet", "plain_text/test-0.parquet"),
        ("train/0000.parquet", "train/0001.parquet", "val/0000.parquet"),
        ("train.parquet", "mnist-train-2.parquet", "validation.parquet"),
    ],
)
def test_layouts(tmp_path, names):
    for name, labels in zip(names, ([0, 1, 2], [2, 1], [1]), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / name, labels)
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert sorted(train.labels) == [0, 1, 1, 2, 2]
    assert list(held_out.labels) == [1]
    assert held_out.classes == ["0", "1", "2"]  # numbered as in training, though only one is there


def write_pathed(folder, *names):
    images = [{"bytes": None, "path": name} for name in names]
    images.append({"bytes": png_bytes((9, 9, 9)), "path": "/etc/passwd"})
    pq.write_table(pa.table({"image": images, "label": [0] * len(images)}), folder / "x.parquet")


@pytest.mark.parametrize("held", [1 << 30, 0])
def test_images_beside_the_file(tmp_path, held):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png_bytes((1, 2, 3)))
    write_pathed(tmp_path, "images/a.png", "images/none.png", None)
    source = ImageParquet([tmp_path / "x.parquet"], held=held)
    assert source.read(0).getpixel((0, 0)) == (1, 2, 3)
    assert source.read(3).getpixel((0, 0)) == (9, 9, 9)
    with pytest.raises(DataError, match=r"row 1 names the file 'images/none.png', which is not in"):
        source.read(1)
    with pytest.raises(DataError, match="row 2 has neither bytes nor a path"):
        source.read(2)


@pytest.mark.parametrize("held", [1 << 30, 0])
def test_paths_that_lead_out_of_the_directory_are_not_read(tmp_path, held):
    outside, inside = tmp_path / "secret", tmp_path / "set"
    outside.mkdir()
    inside.mkdir()
    (outside / "a.png").write_bytes(png_bytes((1, 2, 3)))
    (inside / "own.png").write_bytes(png_bytes((4, 5, 6)))
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (inside / "fine.png").symlink_to(inside / "own.png")
    (inside / "round.png").symlink_to(inside / "round.png")
    climbing = ["../secret/a.png", str(outside / "a.png"), "link.png", "folder/a.png", "x/../own.png"]
    write_pathed(inside, *climbing, "fine.png", "round.png", "zero\0byte.png", "")
    source = ImageParquet([inside / "x.parquet"], held=held)
    for index in range(len(climbing)):
        with pytest.raises(DataError, match=f"row {index} names the file .*outside of .*: nothing was read"):
            source.read(index)
    assert source.read(len(climbing)).getpixel((0, 0)) == (4, 5, 6)
    for index in (1, 2, 3):
        with pytest.raises(DataError, match="which is not in"):
            source.read(len(climbing) + index)


def table_of(count, **others):
    return pa.table({"image": [{"bytes": png_bytes((n, 0, 0)), "path": None} for n in range(count)], **others})


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"label": pa.array([-1, -1])}, "has images with the label -1: they have no label"),
        ({"label": pa.array([0, 10**12])}, "has the label 1000000000000, and labels outside 0 to"),
        ({"label": pa.array([0, None])}, r"x\.parquet row 1 has no label"),
        ({"label": pa.array([b"cat", b"dog"])}, "column 'label' must hold integers or words; it holds binary"),
        ({"labels": pa.array([0.0, 1.5])}, r"row 1 has the label 1\.5; expected a whole number or a word"),
        ({"labels": pa.array([0.0, float("nan")])}, r"x\.parquet row 1 has no label"),
        ({"label": pa.array([1, 1])}, "holds images of one class only, '1' .2 images."),
        ({"image": pa.array(["a", "b"]), "label": pa.array([0, 1])}, "'image' must hold {bytes, path}; it holds str"),
        ({"name": pa.array([0, 1])}, "has columns image, name; expected one of label, labels, fine_label"),
    ],
)
def test_odd_columns(tmp_path, columns, sentence):
    pq.write_table(table_of(2, **columns) if "image" not in columns else pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=sentence):
        open_splits(str(tmp_path), 0.5, 0)


def test_no_rows_and_other_classes(tmp_path):
    write_parquet(tmp_path / "empty.parquet", [])
    with pytest.raises(DataError, match=r"must hold \{bytes, path\}|holds no images"):
        ImageParquet([tmp_path / "empty.parquet"])
    write_parquet(tmp_path / "a.parquet", [0, 1], ["x", "y"])
    with pytest.raises(DataError, match="has other classes than the training images"):
        ImageParquet([tmp_path / "a.parquet"], ["x", "z"])


def test_damage_anywhere_is_an_error(tmp_path):
    """A flipped byte in the middle of the pages: either an image is refused, or no image depends on that byte."""
    path = tmp_path / "x.parquet"
    write_many(path, 60)
    content = path.read_bytes()
    refused = []
    for place in np.random.default_rng(0).integers(4, len(content) * 3 // 4, 40).tolist():
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            source = ImageParquet([path], held=0)
            for index in range(60):
                source.read(index)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all("x.parquet" in sentence for sentence in refused)


def test_a_file_cut_off_after_it_was_opened(tmp_path):
    path = tmp_path / "x.parquet"
    write_many(path)
    source = ImageParquet([path], held=0)
    os.truncate(path, 2000)
    with pytest.raises(DataError, match=r"x\.parquet is not a whole parquet file: "):
        source.read(299)


def test_a_bad_image_is_named_with_its_row(tmp_path):
    table = pa.table({"image": [{"bytes": b"text", "path": None}] * 3, "label": [0, 1, 1]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet row 2 is not an image"):
        ImageParquet([tmp_path / "x.parquet"]).read(2)


def write_shards(folder, shards, names=None, label=None):
    """A file for each list of row groups, each a list of labels; the red of an image is 25 times its label."""
    for number, groups in enumerate(shards):
        schema = table_of(1, label=pa.array([0] if label is None else [label(0)])).schema
        if names:
            features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            schema = schema.with_metadata({"huggingface": json.dumps(features)})
        with pq.ParquetWriter(folder / f"train-{number:05d}.parquet", schema) as writer:
            for labels in groups:
                encoded = [{"bytes": png_bytes((25 * n, 0, 0)), "path": None} for n in labels]
                values = labels if label is None else [label(n) for n in labels]
                columns = [pa.array(encoded, schema.field(0).type), pa.array(values, schema.field(1).type)]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=100)


EMPTY = {
    "a file without row groups, first": [[], [[0], [1, 2], [3]]],
    "between others": [[[0]], [], [[1], [2], [3]]],
    "several, and last": [[[0]], [], [], [[1, 2], [3]], []],
    "a row group without rows": [[[0], [], [1, 2], [3]]],
    "first and last row groups without rows": [[[], [0]], [[1], [2], []], [[]], [[3]]],
}


@pytest.mark.parametrize("shards", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("held", [1 << 30, 0])
@pytest.mark.parametrize("names", [None, ["a", "b", "c", "d"]])
def test_files_and_row_groups_without_rows(tmp_path, shards, held, names):
    write_shards(tmp_path, shards, names)
    paths = sorted(tmp_path.glob("*.parquet"))
    source = ImageParquet(paths, held=held)
    assert list(source.labels) == [0, 1, 2, 3]
    assert [source.read(index).getpixel((0, 0))[0] for index in (3, 1, 0, 2)] == [75, 25, 0, 50]
    assert held or len(source.groups or []) == 4
    again = pickle.loads(pickle.dumps(source))
    assert again.read(2).getpixel((0, 0))[0] == 50
    rows = [int(source.name(index).rpartition(" ")[2]) for index in range(4)]
    assert all(sum(map(len, shards[paths.index(path)])) > row for path, row in _places(source, rows))
    empty = [path.name for path, shard in zip(paths, shards, strict=True) if not sum(map(len, shard))]
    assert source.description == ([f"no rows in {', '.join(empty)} of {tmp_path}"] if empty else [])


def _places(source, rows):
    return [(part.path, row) for part, row in zip((_part(source, i) for i in range(4)), rows, strict=True)]


def _part(source, index):
    return next(p for p, end in zip(source._parts, source._starts[1:], strict=True) if index < end)


def test_files_without_rows_as_hugging_face_writes_them(tmp_path):
    """Types of columns without values are null there."""
    write_shards(tmp_path, [[[0, 1]]])
    pq.write_table(
        pa.table({"image": pa.array([], pa.null()), "label": pa.array([], pa.null())}), tmp_path / "a.parquet"
    )
    assert list(ImageParquet([tmp_path / "a.parquet", tmp_path / "train-00000.parquet"]).labels) == [0, 1]


def test_a_file_that_changed_after_it_was_opened(tmp_path):
    write_shards(tmp_path, [[[0, 1], [2, 3]]])
    path = tmp_path / "train-00000.parquet"
    source = ImageParquet([path], held=0)
    write_shards(tmp_path, [[[0], [2, 3]]])
    with pytest.raises(DataError, match=r"train-00000\.parquet has 1 rows in row group 0; expected 2"):
        source.read(1)


LABELS = {
    "words": (pa.string(), ["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1]),
    "large words": (pa.large_string(), ["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1]),
    "words by view": (pa.string_view(), ["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1]),
    "words from a dictionary": (
        pa.dictionary(pa.int8(), pa.string()),
        ["dog", "cat", "dog"],
        ["cat", "dog"],
        [1, 0, 1],
    ),
    "words of digits": (pa.string(), ["10", "9", "10"], ["9", "10"], [1, 0, 1]),
    "integers from a dictionary": (pa.dictionary(pa.int8(), pa.int64()), [1, 0, 1], ["0", "1"], [1, 0, 1]),
    "floats": (pa.float64(), [1.0, 0.0, 1.0], ["0", "1"], [1, 0, 1]),
    "short floats": (pa.float16(), np.array([1, 0, 1], np.float16), ["0", "1"], [1, 0, 1]),
    "bytes": (pa.uint8(), [1, 0, 1], ["0", "1"], [1, 0, 1]),
    "booleans": (pa.bool_(), [True, False, True], ["0", "1"], [1, 0, 1]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_type(tmp_path, kind):
    of, values, classes, labels = LABELS[kind]
    pq.write_table(table_of(3, label=pa.array(values, of)), tmp_path / "x.parquet", row_group_size=2)
    source = ImageParquet([tmp_path / "x.parquet"])
    assert (source.classes, list(source.labels)) == (classes, labels)
    assert all(type(label) is int for label in source.labels)
    assert ImageParquet([tmp_path / "x.parquet"], classes).classes == classes


def test_words_in_some_files_and_in_the_held_out_part(tmp_path):
    pq.write_table(table_of(2, label=["dog", "cat"]), tmp_path / "train-0.parquet")
    pq.write_table(table_of(2, label=["cat", "bird"]), tmp_path / "val-0.parquet")
    with pytest.raises(DataError, match=r"val-0\.parquet has a class 'bird' that the training images lack"):
        open_splits(str(tmp_path), 0.2, 0)
    pq.write_table(table_of(2, label=["cat", "cat"]), tmp_path / "val-0.parquet")
    assert list(open_splits(str(tmp_path), 0.2, 0)[1].labels) == [0, 0]
    pq.write_table(table_of(2, label=[0, 1]), tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match="has labels that are integers, and others that are words"):
        open_splits(str(tmp_path), 0.2, 0)


KINDS = {
    "binary": pa.binary(),
    "large binary": pa.large_binary(),
    "binary by view": pa.binary_view(),
    "binary with a path": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "large binary with a path": pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
    "views with a path": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", [1 << 30, 0])
def test_images_of_every_type(tmp_path, kind, held):
    of, encoded = KINDS[kind], [png_bytes((25 * n, 0, 0)) for n in range(4)]
    values = [{"bytes": one, "path": "x"} for one in encoded] if pa.types.is_struct(of) else encoded
    schema = pa.schema([("image", of), ("label", pa.int64())])
    with pq.ParquetWriter(tmp_path / "x.parquet", schema) as writer:
        for rows in (slice(0, 3), slice(3, 4)):
            writer.write_table(pa.table({"image": pa.array(values[rows], of), "label": [0, 1, 0, 1][rows]}))
    source = ImageParquet([tmp_path / "x.parquet"], held=held)
    assert [source.read(index).getpixel((0, 0))[0] for index in (3, 0, 2, 1)] == [75, 0, 50, 25]
    assert held or source.groups == [0, 0, 0, 1]


def test_images_from_a_dictionary(tmp_path):
    images = pa.array([png_bytes((25 * n, 0, 0)) for n in (0, 1, 0, 1)]).dictionary_encode()
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), tmp_path / "x.parquet")
    source = ImageParquet([tmp_path / "x.parquet"])
    assert [source.read(index).getpixel((0, 0))[0] for index in range(4)] == [0, 25, 0, 25]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["val-0", "test-0"], r"has test-0\.parquet and val-0\.parquet but none for training"),
        (["train-0", "val-0", "test-0"], r"not used: test-0\.parquet \(val is the held-out split\)"),
        (["train-0", "more"], r"not used: more\.parquet \(no split in their names\)"),
        (["Train", "Validation"], "held-out: 4 images"),
        (["default/train/0", "default/test/0"], "held-out: 4 images"),
        (["training/0", "testing/0", "dev/0"], r"not used: .*testing/ \(dev/ is the held-out split\)"),
    ],
)
def test_files_of_splits(tmp_path, names, sentence):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(4, label=[0, 0, 1, 1], number=[number] * 4), tmp_path / f"{name}.parquet")
    if "none for training" in sentence:
        with pytest.raises(DataError, match=sentence):
            open_splits(str(tmp_path), 0.5, 0)
        return
    sources = open_splits(str(tmp_path), 0.5, 0)
    assert len(sources[0]) == (2 if "more" in names else 4)
    assert any(re.search(sentence, said) for source in sources for said in source.description)


def test_the_same_image_in_both_splits_is_reported(tmp_path):
    for name in ("train", "val"):
        pq.write_table(table_of(2, label=[0, 1]), tmp_path / f"{name}.parquet")
    _, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert "the same image is in both splits: 2 of the 2 held-out images" in held_out.description[-1]


@pytest.mark.parametrize("unlabelled", ["label -1", "no label"])
def test_a_test_split_without_labels_is_not_used(tmp_path, unlabelled):
    write_parquet(tmp_path / "train-00000-of-00003.parquet", [0, 1] * 4)
    write_parquet(tmp_path / "test.parquet", [-1, -1], label="label" if "-1" in unlabelled else "text")
    train, held_out = open_splits(str(tmp_path), 0.25, 0)
    assert (len(train), len(held_out)) == (6, 2)
    notes = "\n".join(train.description)
    assert f"not used: {tmp_path}/test.parquet has" in notes
    assert f"missing: 2 of the files to which {tmp_path}/train-00000-of-00003.parquet belongs, 1, 2" in notes


def test_files_that_number_their_classes_differently(tmp_path):
    write_parquet(tmp_path / "0.parquet", [0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "1.parquet", [0, 1], ["dog", "cat"])
    with pytest.raises(DataError, match=r"1\.parquet numbers other classes than .*0\.parquet"):
        open_splits(str(tmp_path), 0.25, 0)
