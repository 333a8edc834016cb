"""Hugging Face's parquet files: in memory, by pages and by row groups, and pictures that lie beside the file."""

import io
import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sasa.data.sources import ImageParquet, Subset, open_splits
from sasa.data.sources.thrift import read_fields, varint
from sasa.errors import DataError


def png_bytes(colour, size=8):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, labels, names=None, image="img", label="label"):

    pictures = [{"bytes": png_bytes((25 * n, 0, 0)), "path": f"{n}.png"} for n in labels]
    table = pa.table({image: pictures, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


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


def noisy_png(number):
    """Each another size of file, so that a wrong place shows; the first pixel tells the number."""
    pixels = np.random.default_rng(number).integers(0, 255, (4 + number % 5, 6, 3), np.uint8)
    pixels[0, 0] = (number % 256, number // 256, 7)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(picture):
    red, green, blue = picture.getpixel((0, 0))
    assert blue == 7
    return red + 256 * green


def write_many(path, count=300, repeat=False, binary=False, **options):
    pictures = [noisy_png(n % 3 if repeat else n) for n in range(count)]
    column = pictures if binary else [{"bytes": picture, "path": f"{n}.png"} for n, picture in enumerate(pictures)]
    table = pa.table({"image": column, "label": [n % 4 for n in range(count)]})
    pq.write_table(table, path, **{"row_group_size": 100, "data_page_size": 1500, "write_batch_size": 10, **options})


WRITERS = {
    "plain": {"use_dictionary": False},
    "dictionary first, then plain": {"dictionary_pagesize_limit": 3000},
    "dictionary only": {"repeat": True},
    "one entry": {"repeat": True, "count": 1},
    "uncompressed": {"compression": "none"},
    "gzip": {"compression": "gzip"},
    "zstd": {"compression": "zstd"},
    "brotli": {"compression": "brotli"},
    "second version of pages": {"data_page_version": "2.0"},
    "second version, not compressed": {"data_page_version": "2.0", "compression": "none"},
    "one page": {"data_page_size": 1 << 30, "row_group_size": 1 << 20},
    "plain bytes": {"binary": True},
    "page index and checksums": {"write_page_index": True, "write_page_checksum": True},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_pages_give_what_memory_gives(tmp_path, writer):
    path = tmp_path / "x.parquet"
    write_many(path, **WRITERS[writer])
    held, by_pages = ImageParquet([path]), ImageParquet([path], held=0)
    assert type(by_pages._reader).__name__ == "PageReader"
    order = np.random.default_rng(0).permutation(len(held)).tolist()
    for index in order:
        expected = index % 3 if WRITERS[writer].get("repeat") else index
        assert number_of(by_pages.read(index)) == number_of(held.read(index)) == expected
    assert held.groups is None
    groups = by_pages.groups
    assert groups is not None
    assert len(groups) == len(held)
    assert list(Subset(by_pages, order[:5]).groups or []) == [groups[index] for index in order[:5]]


@pytest.mark.parametrize("options", [{"compression": "lz4"}, {"column_encoding": "DELTA_LENGTH_BYTE_ARRAY"}])
def test_rare_encodings_are_read_by_row_groups(tmp_path, options):
    if "column_encoding" in options:
        options = {"column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}, "use_dictionary": False}
    write_many(tmp_path / "x.parquet", **options)
    source = ImageParquet([tmp_path / "x.parquet"], held=0)
    assert type(source._reader).__name__ == "RowGroupReader"
    assert [number_of(source.read(index)) for index in (299, 0, 150, 151)] == [299, 0, 150, 151]
    assert source.groups == [n // 100 for n in range(300)]


@pytest.mark.parametrize("held", [1 << 30, 0])
def test_several_files_are_one_source_and_are_named(tmp_path, held):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        write_many(path, 120)
    source = ImageParquet(paths, held=held)
    assert len(source) == 240
    assert number_of(source.read(120 + 77)) == 77
    assert source.name(120 + 77) == f"{paths[1]} row 77"
    again = pickle.loads(pickle.dumps(source))
    assert number_of(again.read(239)) == 119
    assert source.groups in (None, [0] * 100 + [1] * 20 + [2] * 100 + [3] * 20)


@pytest.mark.parametrize("held", [1 << 30, 0])
def test_a_forked_process_reads_by_itself(tmp_path, held):
    write_many(tmp_path / "x.parquet")
    source = ImageParquet([tmp_path / "x.parquet"], held=held)
    source.read(0)
    from torch.utils.data import DataLoader, Dataset

    class Numbers(Dataset):
        def __getitem__(self, index):
            return number_of(source.read(index))

    order = list(np.random.default_rng(0).permutation(300))
    loader = DataLoader(Numbers(), batch_size=10, sampler=order, num_workers=1, multiprocessing_context="fork")
    assert [int(n) for batch in loader for n in batch] == order


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
    pictures = [{"bytes": None, "path": name} for name in names]
    pictures.append({"bytes": png_bytes((9, 9, 9)), "path": "/etc/passwd"})
    pq.write_table(pa.table({"image": pictures, "label": [0] * len(pictures)}), folder / "x.parquet")


@pytest.mark.parametrize("held", [1 << 30, 0])
def test_pictures_beside_the_file(tmp_path, held):
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
def test_paths_that_lead_out_of_the_folder_are_not_read(tmp_path, held):
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
        ({"label": pa.array([-1, -1])}, "has pictures with the label -1: they have no label"),
        ({"label": pa.array([0, 10**12])}, "has the label 1000000000000, and labels outside 0 to"),
        ({"label": pa.array([0, None])}, r"x\.parquet row 1 has no label"),
        ({"label": pa.array(["cat", "dog"])}, "column 'label' must hold integers; it holds string"),
        ({"labels": pa.array([0.0, 1.0])}, "column 'labels' must hold integers; it holds double"),
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
    with pytest.raises(DataError, match=r"must hold \{bytes, path\}|holds no pictures"):
        ImageParquet([tmp_path / "empty.parquet"])
    write_parquet(tmp_path / "a.parquet", [0, 1], ["x", "y"])
    with pytest.raises(DataError, match="has other classes than the training pictures"):
        ImageParquet([tmp_path / "a.parquet"], ["x", "z"])


def test_damage_anywhere_is_a_sentence(tmp_path):
    """A byte turned over in the middle of the pages: either a picture is refused, or nothing depended on it."""
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
    with pytest.raises(DataError, match=r"x\.parquet was cut off: (\d+) of the \1 bytes at \d+ are missing"):
        source.read(299)


def test_a_bad_picture_is_named_with_its_row(tmp_path):
    table = pa.table({"image": [{"bytes": b"text", "path": None}] * 3, "label": [0, 1, 1]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet row 2 is not a picture"):
        ImageParquet([tmp_path / "x.parquet"]).read(2)


def test_numbers_of_thrift():
    assert varint(bytes([0x96, 0x01]), 0) == (150, 2)
    with pytest.raises(ValueError, match="more than 64 bits"):
        varint(b"\xff" * 20, 0)
    with pytest.raises(IndexError):
        varint(b"\xff", 0)
    # {1: -1, 2: true, 18: {1: 3}, a string of two bytes stepped over}; then end.
    content = bytes([0x15, 0x01, 0x11, 0x0C, 0x24, 0x15, 0x06, 0x00, 0x18, 0x02, 65, 66, 0x00])
    assert read_fields(content, 0) == ({1: -1, 2: True, 18: {1: 3}, 19: None}, len(content))
    with pytest.raises(ValueError, match="without end"):
        read_fields(bytes([0x1C]) * 50, 0)
