"""Data sets that hold two candidates for one thing: a sentence says which is used, and names the other."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_files import png_bytes, save_image, write_parquet
from sasa.data.classification import open_splits

CLASSES = ("cat", "dog")
NAMES = [f"{n}.png" for n in range(8)]
ROWS = [f"{name},{CLASSES[n % 2]}" for n, name in enumerate(NAMES)]
TABLE = "\n".join(["file_name,label", *ROWS])


def save(root, *directories, number=8):
    """So many images of different colours in each directory."""
    for place, directory in enumerate(directories):
        for n in range(number):
            save_image(root / directory / f"{n}.png", (n, place, len(directory)))


def opened(root):
    """Everything that is said about a data set, and the number of its images."""
    sources = open_splits(str(root), 0.25, 0)
    return "\n".join(sentence for source in sources for sentence in source.description), tuple(map(len, sources))


def test_a_table_and_others_in_the_directories_of_splits(tmp_path):
    save(tmp_path, "train")
    for table in ("metadata.csv", "train/metadata.csv"):
        (tmp_path / table).write_text(TABLE)
    sentence = f"not used: {tmp_path}/train/metadata.csv (the labels are those of the tables in {tmp_path})"
    assert sentence in opened(tmp_path)[0]


def test_images_of_a_table_in_two_directories(tmp_path):
    save(tmp_path, "depth", "gt", "rgb")
    (tmp_path / "labels.csv").write_text(TABLE)
    where = f"the images that {tmp_path}/labels.csv names are those of {tmp_path}/depth"
    assert f"not used: {tmp_path}/rgb, {tmp_path}/gt ({where})" in opened(tmp_path / "labels.csv")[0]


def test_two_columns_of_splits(tmp_path):
    save(tmp_path, ".")
    (tmp_path / "labels.csv").write_text(
        "\n".join(
            [
                "file_name,label,set,usage,is_valid",
                *(f"{row},A,{'train' if n < 6 else 'val'},{n % 2}" for n, row in enumerate(ROWS)),
            ]
        )
    )
    said, sizes = opened(tmp_path)
    assert f"not used: the column 'set' of {tmp_path}/labels.csv (its values are no names of splits)" in said
    assert f"not used: the column 'is_valid' of {tmp_path}/labels.csv (the splits are those of 'usage')" in said
    assert sizes == (6, 2)


@pytest.mark.parametrize("splits", [("",), ("train/", "val/")])
def test_tables_beside_class_directories(tmp_path, splits):
    save(tmp_path, *(f"{split}{name}" for split in splits for name in CLASSES))
    for table in ("labels.csv", f"{splits[0]}train.csv"):
        (tmp_path / table).write_text(TABLE)
    names = f"{tmp_path}/labels.csv, {tmp_path}/{splits[0]}train.csv"
    assert f"not used: {names} (the directories are the classes)" in opened(tmp_path)[0]


def test_two_tables_of_held_out_images(tmp_path):
    save(tmp_path, "train/cat", "train/dog", "val")
    (tmp_path / "val" / "labels.csv").write_text(TABLE)
    (tmp_path / "val.csv").write_text(TABLE)
    said, sizes = opened(tmp_path)
    used = f"the labels of {tmp_path}/val are those of {tmp_path}/val/labels.csv"
    assert f"not used: {tmp_path}/val.csv ({used})" in said
    assert sizes == (16, 8)


def test_two_lists_for_a_split(tmp_path):
    save(tmp_path, "images/cat", "images/dog", number=3)
    for name, numbers in (("train1", (0, 1)), ("train2", (1, 2)), ("test1", (2,)), ("val1", (2,)), ("val2", (0,))):
        lines = (f"{c}/{n}.png\n" for c in CLASSES for n in numbers)
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    said, sizes = opened(tmp_path)
    assert f"not used: {tmp_path}/train2.txt, {tmp_path}/val2.txt (other lists of these splits)" in said
    assert sizes == (4, 2)


def test_parquet_files_in_two_places(tmp_path):
    for place, labels in (("all.parquet", [0, 1, 2, 0, 1, 2]), ("data/train.parquet", [0, 1, 0, 1])):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / place, labels)
    said, _ = opened(tmp_path)
    assert f"not used: {tmp_path}/data (the files are those directly in {tmp_path})" in said


def test_two_columns_of_labels_in_parquet(tmp_path):
    path = tmp_path / "train.parquet"
    images = [{"bytes": png_bytes((25 * n, 0, 0)), "path": None} for n in range(6)]
    pq.write_table(pa.table({"img": images, "image": images, "category": [0] * 6, "label": [0, 1] * 3}), path)
    said, _ = opened(path)
    assert f"not used: 'img', 'category' (the columns of {path} that are read are 'image' and 'label')" in said
    assert "2 classes" in said
