"""Images with a table of labels beside them."""

import json

import pytest
from PIL import Image

from sasa.data.classification import open_splits
from sasa.errors import DataError

CAT, DOG = (200, 0, 0), (0, 200, 0)


def save_images(root, names):
    """Every other image is labelled dog and is green; all images differ."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        red, green, _ = DOG if number % 2 else CAT
        Image.new("RGB", (5, 4), (red, green, number)).save(root / name)


def check(source):
    for index, label in enumerate(source.labels):
        green = source.read(index).getpixel((0, 0))[1]
        assert source.classes[label] == ("dog" if green else "cat")


def table_of(names, header="file_name,label", between=","):
    rows = [f"{name}{between}{'dog' if number % 2 else 'cat'}" for number, name in enumerate(names)]
    return "\n".join([header, *rows]) + "\n"


NAMES = [f"{n}.jpeg" for n in range(8)]
FLAT = {
    "imagefolder": ("metadata.csv", "", table_of(NAMES)),
    "semicolons and a byte order mark": ("labels.csv", "", "\ufeff" + table_of(NAMES, "Filename;Class", ";")),
    "tabs": ("labels.tsv", "images", table_of(NAMES, "path\tspecies", "\t")),
    "ids without suffix": ("train.csv", "train", table_of([n.split(".")[0] for n in NAMES], "id,label")),
    "two columns": ("train_labels.csv", "train", table_of([n.split(".")[0] for n in NAMES], "image_id,answer")),
    "directories": ("data.csv", "images/all", table_of([f"images/all/{n}" for n in NAMES])),
    "another machine": ("data.csv", "images", table_of([f"C:\\Users\\me\\images\\{n}" for n in NAMES], "path,label")),
    "without names of columns": ("train.csv", "images", table_of(NAMES, "").lstrip()),
    "with the index of pandas": (
        "data.csv",
        "",
        "".join(f"{n - 1 if n else ''},{row}\n" for n, row in enumerate(table_of(NAMES).splitlines())),
    ),
    "a column for each class": (
        "train.csv",
        "images",
        "image_id, cat, dog\n" + "".join(f"{n}, {float(i % 2 == 0)}, {float(i % 2)}\n" for i, n in enumerate(NAMES)),
    ),
    "a list": ("train_list.txt", "images", table_of([f"images/{n}" for n in NAMES], "", " ").lstrip()),
    "a list with tabs": ("train.txt", "images", table_of(NAMES, "", "\t").lstrip()),
    "spaces behind commas": ("data.csv", "", table_of([f'"{n}"' for n in NAMES], "file_name, label", ", ")),
    "APTOS": ("train.csv", "train_images", table_of([n.split(".")[0] for n in NAMES], "id_code,diagnosis")),
    "names in camel case": ("data.csv", "", table_of(NAMES, "ImageID,ClassName")),
    "a list with commas": ("train.txt", "", table_of(NAMES, "").lstrip()),
    "a list, labels first": (
        "train.txt",
        "",
        "".join(f"{'dog' if i % 2 else 'cat'} {n}\n" for i, n in enumerate(NAMES)),
    ),
    "a list of names with spaces": (
        "train.txt",
        "my images",
        table_of([f"my images/{n}" for n in NAMES], "", " ").lstrip(),
    ),
    "boxes without names of columns": (
        "data.csv",
        "",
        "".join(f"{n},1,2,3,{i},{'dog' if i % 2 else 'cat'}\n" for i, n in enumerate(NAMES)),
    ),
    "boxes": (
        "data.csv",
        "",
        "xmin,ymin,xmax,ymax,file_name,label\n" + "".join(f"1,2,3,4,{row}\n" for row in table_of(NAMES, "").split()),
    ),
    "quoted": ("train.csv", "images", table_of([f'"{n}"' for n in NAMES])),
    "JSON": (
        "metadata.jsonl",
        "",
        "".join(json.dumps({"file_name": n, "label": "dog" if i % 2 else "cat"}) + "\n" for i, n in enumerate(NAMES)),
    ),
}


@pytest.mark.parametrize("kind", FLAT)
def test_one_table(tmp_path, kind):
    table, directory, text = FLAT[kind]
    save_images(tmp_path / directory, NAMES)
    (tmp_path / table).write_text(text, newline="\r\n")
    for data in (tmp_path, tmp_path / table):
        train, held_out = open_splits(str(data), 0.25, 0)
        assert (train.classes, len(train), len(held_out)) == (["cat", "dog"], 6, 2)
        check(train)
        check(held_out)


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train/metadata.csv", "validation/metadata.csv"),
        ("train.csv", "val.csv"),
        ("Train/labels.csv", "Test/labels.csv"),
    ],
)
def test_tables_of_splits(tmp_path, train, held_out):
    for table in (train, held_out):
        (tmp_path / table).parent.mkdir(exist_ok=True)
        place = tmp_path / table.partition(".")[0].partition("/")[0]
        save_images(place, NAMES)  # the same names in both
        (tmp_path / table).write_text(table_of(NAMES))
    sources = open_splits(str(tmp_path), 0.25, 0)
    assert [len(source) for source in sources] == [8, 8]
    for source, table in zip(sources, (train, held_out), strict=True):
        check(source)
        assert source.name(0).startswith(str(tmp_path / table.partition(".")[0].partition("/")[0]))


def test_a_column_of_splits(tmp_path):
    save_images(tmp_path, NAMES)
    rows = table_of(NAMES, "file_name,label,split").splitlines()
    splits = ["train"] * 4 + ["valid"] * 2 + ["test"] * 2
    (tmp_path / "metadata.csv").write_text(
        "\n".join([rows[0], *(f"{r},{s}" for r, s in zip(rows[1:], splits, strict=True))])
    )
    sources = open_splits(str(tmp_path), 0.25, 0)
    assert [len(source) for source in sources] == [4, 2]
    assert "not used: the test rows (val is the held-out split)" in sources[0].description


def test_kaggles_files_beside_the_table(tmp_path):
    save_images(tmp_path / "train", NAMES)
    save_images(tmp_path / "test", ["a.jpeg"])
    (tmp_path / "train.csv").write_text(table_of(NAMES, "id,label"))
    (tmp_path / "sample_submission.csv").write_text("id,label\na,cow\n")
    (tmp_path / "extra.csv").write_text("id,label\na,cow\n")
    train, _ = open_splits(str(tmp_path), 0.25, 0)
    assert train.classes == ["cat", "dog"]
    assert f"not used: {tmp_path}/extra.csv (its name says no split)" in train.description


@pytest.mark.parametrize(
    ("labels", "classes"), [(["0", "1"], ["0", "1"]), (["10", "9"], ["9", "10"]), (["1.0", "0.0"], ["0", "1"])]
)
def test_labels_that_are_numbers(tmp_path, labels, classes):
    save_images(tmp_path, NAMES)
    rows = [f"{name},{labels[n % 2]}" for n, name in enumerate(NAMES)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    train, _ = open_splits(str(tmp_path), 0.25, 0)
    assert train.classes == classes


@pytest.mark.parametrize("place", ["", "train/", "photos/"])
def test_a_table_beside_class_directories_is_not_looked_at(tmp_path, place):
    save_images(tmp_path, [f"{place}{'dog' if n % 2 else 'cat'}/{n}.jpeg" for n in range(8)])
    (tmp_path / "labels.csv").write_text("file_name,label\nnowhere.png,cow\n")
    assert open_splits(str(tmp_path), 0.25, 0)[0].classes == ["cat", "dog"]


@pytest.mark.parametrize("directories", [["images_part_1", "images_part_2"], ["img1", "img2"]])
def test_parts_of_a_directory_are_not_classes(tmp_path, directories):
    save_images(tmp_path, [f"{directories[n // 4]}/{name}" for n, name in enumerate(NAMES)])
    with pytest.raises(DataError, match="whose names are not classes but parts of one directory"):
        open_splits(str(tmp_path), 0.25, 0)
    (tmp_path / "metadata.csv").write_text(table_of([name.split(".")[0] for name in NAMES], "image_id,dx"))
    train, _ = open_splits(str(tmp_path), 0.25, 0)
    check(train)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n", r"labels\.csv has the columns a, b: expected one of names"),
        ("file_name,label\n0.jpeg,\n", r"labels\.csv line 2 has no label"),
        ("file_name,label\n0.jpeg,cat\n,dog\n", r"labels\.csv line 3 has no name of an image"),
        ("file_name,label\n0.jpeg,cat,1\n", r"labels\.csv line 2 has 3 columns; the first line has 2"),
        (
            "file_name,label\n0.jpeg,cat\nnone.jpeg,dog\n",
            r"labels\.csv names 2 images, of which 1 are not in .*none\.jpeg",
        ),
        ("file_name,label\n0.jpeg,cat\n./0.jpeg,dog\n", r"labels\.csv names the images '0\.jpeg' and '\./0\.jpeg'"),
        ("file_name,label\n0.jpeg,cat\n0.jpeg,dog\n", r"labels\.csv names the image .*0\.jpeg twice"),
        ('file_name,label\n"0.jpeg,cat\n', r"labels\.csv line 2 is damaged: unexpected end of data"),
        ("file_name,label\n", r"labels\.csv has tables without rows"),
        ("", r"labels\.csv has the columns : expected"),
        ("file_name,label,label\n0.jpeg,cat,dog\n", r"labels\.csv has two columns 'label'"),
        ("file_name,label\n0.jpeg,-1\n1.jpeg,0\n", r"labels\.csv has images with the label -1: they have no label"),
        ("file_name,cat,dog\n0.jpeg,0,0\n", r"labels\.csv line 2 marks 0 classes: images with one label each are read"),
        ("file_name,cat,dog\n0.jpeg,1,1\n", r"labels\.csv line 2 marks 2 classes \(cat, dog\): images with one label"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, sentence):
    save_images(tmp_path, NAMES)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        open_splits(str(tmp_path / "labels.csv"), 0.25, 0)


def test_two_tables_for_one_split(tmp_path):
    save_images(tmp_path, NAMES)
    for name in ("train.csv", "train_labels.csv"):
        (tmp_path / name).write_text(table_of(NAMES))
    with pytest.raises(DataError, match=r"several tables for the train split \(train\.csv, train_labels\.csv\): give"):
        open_splits(str(tmp_path), 0.25, 0)


def test_accents_of_macos(tmp_path):
    save_images(tmp_path, [f"caf\u0065\u0301{n}.jpeg" for n in range(8)])
    (tmp_path / "data.csv").write_text(table_of([f"caf\u00e9{n}.jpeg" for n in range(8)]))
    check(open_splits(str(tmp_path), 0.25, 0)[0])


def test_text_in_utf16_needs_its_mark(tmp_path):
    """Excel's "Unicode text" has it."""
    save_images(tmp_path, NAMES)
    text = table_of(NAMES).replace(",", "\t").replace("\n", "\r\n")
    (tmp_path / "data.csv").write_bytes(text.encode("utf-16"))
    assert len(open_splits(str(tmp_path), 0.5, 0)[0].classes) > 1
    (tmp_path / "data.csv").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(DataError, match=r"data\.csv cannot be read as UTF-8 text: it holds zero bytes"):
        open_splits(str(tmp_path), 0.5, 0)


@pytest.mark.parametrize("between", [" ", "|", ", "])
def test_several_labels_in_one_are_reported(tmp_path, between):
    save_images(tmp_path, NAMES)
    labels = ["haze", f"clear{between}primary", f"haze{between}primary", "clear"] * 2
    rows = [f'{name},"{label}"' for name, label in zip(NAMES, labels, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["file_name,label", *rows]))
    train, _ = open_splits(str(tmp_path), 0.5, 0)
    assert f"data.csv has labels such as 'clear{between}primary', each of which" in " ".join(train.description)


def test_images_in_no_table_and_classes_that_differ_in_case_are_reported(tmp_path):
    save_images(tmp_path, NAMES)
    (tmp_path / "data.csv").write_text(table_of(NAMES[:6]) + f"{NAMES[6]},Cat\n")
    train, _ = open_splits(str(tmp_path), 0.5, 0)
    assert f"not used: 1 images in {tmp_path} that are in neither split" in train.description
    assert "classes that differ in upper and lower case only: Cat, cat" in train.description


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("set", ["train", "valid", "test"]),
        ("Usage", ["Training", "PublicTest", "PrivateTest"]),
        ("is_valid", ["False", "True", "True"]),
        ("is_train", ["1", "0", "0"]),
    ],
)
def test_names_of_columns_of_splits(tmp_path, column, values):
    save_images(tmp_path, NAMES)
    rows = table_of(NAMES, f"file_name,label,{column}").splitlines()
    splits = [values[0]] * 4 + [values[1]] * 2 + [values[2]] * 2
    (tmp_path / "train.csv").write_text(
        "\n".join([rows[0], *(f"{r},{s}" for r, s in zip(rows[1:], splits, strict=True))])
    )
    sources = open_splits(str(tmp_path), 0.25, 0)
    assert (len(sources[0]), sources[1].name(0)) == (4, str(tmp_path / NAMES[4]))


def test_columns_of_folds_and_unknown_splits_are_reported(tmp_path):
    save_images(tmp_path, NAMES)
    rows = table_of(NAMES, "file_name,label,fold").splitlines()
    (tmp_path / "a.csv").write_text("\n".join([rows[0], *(f"{row},{n % 3}" for n, row in enumerate(rows[1:]))]))
    train, _ = open_splits(str(tmp_path / "a.csv"), 0.25, 0)
    assert "not used: the column 'fold' of" in train.description[0]
    rows[0] = "file_name,label,split"
    (tmp_path / "a.csv").write_text(
        "\n".join([rows[0], *(f"{r},{'train' if n < 6 else 'x'}" for n, r in enumerate(rows[1:]))])
    )
    train, other = open_splits(str(tmp_path / "a.csv"), 0.34, 0)
    assert len(train) + len(other) == 6
    assert "not used: 2 rows of" in train.description[0]


@pytest.mark.parametrize("name", ["{split}/{n}", "{n}"])
def test_splits_in_the_directories_of_one_table(tmp_path, name):
    places = [("train" if n < 6 else "test", image) for n, image in enumerate(NAMES)]
    save_images(tmp_path, [f"{split}/{image}" for split, image in places])
    (tmp_path / "labels.csv").write_text(table_of([name.format(split=split, n=image) for split, image in places]))
    train, held_out = open_splits(str(tmp_path), 0.25, 0)
    assert (len(train), len(held_out)) == (6, 2)
    check(train)
    check(held_out)


@pytest.mark.parametrize("text", ["file_name\na.jpeg\n", "file_name,label\na.jpeg,\n", "file_name,label\na.jpeg,-1\n"])
def test_a_test_split_without_labels_is_not_used(tmp_path, text):
    save_images(tmp_path / "train", NAMES)
    save_images(tmp_path / "test", ["a.jpeg"])
    (tmp_path / "train.csv").write_text(table_of(NAMES))
    (tmp_path / "test.csv").write_text(text)
    train, held_out = open_splits(str(tmp_path), 0.25, 0)
    assert len(train) + len(held_out) == 8
    assert any("not used" in note and "test.csv" in note for note in train.description)


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("{n}.37", "12 labels in 12 images: texts or numbers, not classes"),
        ("a photo of dog {n}", "12 labels in 12 images: texts or numbers, not classes"),
        ("{half}.5", "labels such as [01].5, which are numbers and not classes"),
        ("{nan}", "line 2 has no label"),
    ],
)
def test_labels_that_are_not_classes(tmp_path, label, sentence):
    names = [f"{n}.jpeg" for n in range(12)]
    save_images(tmp_path, names)
    rows = [f"{name},{label.format(n=n, half=n % 2, nan='dog' if n else 'nan')}" for n, name in enumerate(names)]
    (tmp_path / "data.csv").write_text("\n".join(["image,label", *rows]))
    with pytest.raises(DataError, match=sentence):
        open_splits(str(tmp_path), 0.25, 0)


def test_several_boxes_for_an_image(tmp_path):
    save_images(tmp_path, NAMES)
    rows = "".join(f"{name},1,2,3,4,cat\n" for name in (NAMES[0], NAMES[0], NAMES[1]))
    (tmp_path / "data.csv").write_text("filename,xmin,ymin,xmax,ymax,class\n" + rows)
    with pytest.raises(DataError, match=r"has boxes \(xmin, ymin, xmax, ymax\), several for one image: to train"):
        open_splits(str(tmp_path), 0.25, 0)


def test_tables_of_splits_in_a_wrapping_directory(tmp_path):
    """Hugging Face's imagefolder."""
    for split, number in (("train", 6), ("test", 2)):
        save_images(tmp_path / "data" / split, NAMES[:number])
        rows = [{"file_name": n, "label": ["dog" if i % 2 else "cat"]} for i, n in enumerate(NAMES[:number])]
        (tmp_path / "data" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = open_splits(str(tmp_path), 0.25, 0)
    assert [len(source) for source in sources] == [6, 2]
    check(sources[0])


@pytest.mark.parametrize(("column", "first", "second"), [("is_train", "yes", "no"), ("is_valid", "False", "true")])
def test_a_column_that_says_whether_a_row_is_of_a_split(tmp_path, column, first, second):
    save_images(tmp_path, NAMES)
    words = [first] * 4 + [second] * 2 + ["", "maybe"]
    rows = zip(
        table_of(NAMES, f"file_name,label,{column}").splitlines(), ["", *(f",{word}" for word in words)], strict=True
    )
    (tmp_path / "metadata.csv").write_text("\n".join(row + word for row, word in rows))
    train, held_out = open_splits(str(tmp_path), 0.25, 0)
    assert (len(train), len(held_out)) == (4, 2)
    note = f"not used: 2 rows of {tmp_path}/metadata.csv whose {column!r} is not the name of a split"
    assert note in train.description


def test_lines_of_json_that_lack_keys(tmp_path):
    save_images(tmp_path, NAMES)
    rows = [{"file_name": n, "label": "dog" if i % 2 else "cat", "camera": "x"} for i, n in enumerate(NAMES)]
    del rows[0]["label"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"metadata\.jsonl line 1 has no label"):
        open_splits(str(tmp_path), 0.25, 0)
    rows = [{"file_name": n, ("dog" if i % 2 else "cat"): 1} for i, n in enumerate(NAMES)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"metadata\.jsonl has the columns file_name, cat, dog: expected"):
        open_splits(str(tmp_path / "metadata.jsonl"), 0.25, 0)


def test_several_columns_of_labels(tmp_path):
    save_images(tmp_path, NAMES)
    rows = table_of(NAMES, "file_name,species,breed").splitlines()
    table = "\n".join([rows[0], *(f"{row},x{n}" for n, row in enumerate(rows[1:]))])
    (tmp_path / "metadata.csv").write_text(table)
    train, _ = open_splits(str(tmp_path), 0.25, 0)
    assert train.classes == ["cat", "dog"]
    sentence = f"not used: 'breed' of {tmp_path}/metadata.csv (the labels are those of 'species')"
    assert sentence in train.description
