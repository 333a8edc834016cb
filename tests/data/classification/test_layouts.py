"""Layouts found on users' disks: names of splits, wrapping directories, files of the operating system."""

from itertools import count

import pytest
from PIL import Image

from sasa.data.classification import open_splits
from sasa.data.images import read_image
from sasa.data.naming import exact_split, split_of
from sasa.errors import DataError

CLASSES = ("cat", "dog")
_colours = count()


def save_images(root, *directories, number=3):
    """Images of different colours, `number` in each directory."""
    for directory in directories:
        (root / directory).mkdir(parents=True, exist_ok=True)
        for n in range(number):
            colour = next(_colours)
            Image.new("RGB", (5, 4), (colour % 256, colour // 256, 0)).save(root / directory / f"{n}.png")


def save_classes(root, *directories, classes=CLASSES, number=3):
    save_images(
        root, *(f"{directory}/{name}".lstrip("/") for directory in directories for name in classes), number=number
    )


def description(sources):
    return "\n".join(sentence for source in sources for sentence in source.description)


TRAIN = [
    "train",
    "Train",
    "TRAIN",
    "training",
    "Training",
    "training_set",
    "trainingSet",
    "train_images",
    "images_train",
]
TRAIN += [
    "Train Images",
    "trainset",
    "train-set",
    "train2017",
    "1_train",
    "TrainData",
    "img_train",
    "trainval",
    "Trainingsdaten",
    "entraînement",
    "训练集",
    "обучение",
]
HELD = [
    "val",
    "Val",
    "VAL",
    "valid",
    "Valid",
    "validation",
    "Validation_Set",
    "val2017",
    "dev",
    "Testdaten",
    "eval",
    "held_out",
]
HELD += ["validación", "测试集", "тест"]
HELD += ["test", "Test", "Testing", "TESTING", "test_set", "testSet", "test-images", "Test Images", "holdout"]


@pytest.mark.parametrize("name", TRAIN)
def test_names_of_training_splits(tmp_path, name):
    save_classes(tmp_path, name, "Testing")
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == held_out.classes == ["cat", "dog"]
    assert (len(train), len(held_out)) == (6, 6)
    assert str(tmp_path / name / "cat") in train.name(0)
    assert f"training: 6 images, 2 classes (cat 3, dog 3), from {tmp_path / name}" in train.description
    assert f"held-out: 6 images, 2 classes (cat 3, dog 3), from {tmp_path / 'Testing'}" in held_out.description


@pytest.mark.parametrize("name", HELD)
def test_names_of_held_out_splits(tmp_path, name):
    save_classes(tmp_path, "train")
    save_classes(tmp_path, name, number=1)
    train, held_out = open_splits(str(tmp_path), 0.2, 0)
    assert train.classes == ["cat", "dog"]
    assert (len(train), len(held_out)) == (6, 2)
    assert str(tmp_path / name / "dog") in held_out.name(1)


@pytest.mark.parametrize(
    "name", ["cat", "trainer", "train station", "bullet_train", "test_tube", "devil", "evaluator", "value", "contest"]
)
def test_names_of_classes_are_not_splits(name):
    assert exact_split(name) is None


def test_words_beside_the_split():
    assert split_of("asl_alphabet_train") == ("train", ("asl", "alphabet"))
    assert split_of("ILSVRC2012_img_val") == ("val", ("ilsvrc",))
    assert split_of("train_val") == ("train", ())
    assert split_of("train_test")[0] is None


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ("photos/train", "photos/val"),  # the wrapper of an archive
        ("images/train", "images/test"),
        ("a/b/c/Train", "a/b/c/Test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
        ("train/images", "val/images"),
        ("x_train", "x_val"),
    ],
)
def test_wrapping_directories_are_looked_through(tmp_path, train, held):
    save_classes(tmp_path, train, held)
    (tmp_path / "README.txt").write_text("x")
    sources = open_splits(str(tmp_path), 0.2, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert [len(source) for source in sources] == [6, 6]
    assert str(tmp_path / train) in sources[0].name(0)
    assert str(tmp_path / held) in sources[1].name(0)


@pytest.mark.parametrize("wrapper", ["photos", "data/images", "raw-img", "data/photos/jpg"])
def test_wrappers_without_splits(tmp_path, wrapper):
    save_classes(tmp_path, wrapper)
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert [len(source) for source in sources] == [4, 2]
    assert f"entered {tmp_path / wrapper}/, which holds all images" in description(sources)
    assert "from 0.34 of each class, drawn with seed 0" in description(sources)


def test_directories_without_images_beside_the_wrapper(tmp_path):
    save_classes(tmp_path, "images")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "notes.txt").write_text("x")
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert f"ignored in {tmp_path}: docs/ (no images)" in description(sources)


@pytest.mark.parametrize("prefix", ["", "photos"])
@pytest.mark.parametrize("run", ["run", "runs/a", "runs/b/c"])
def test_runs_beside_the_classes_are_not_classes(tmp_path, prefix, run):
    """As after `sasa train --data .` in the directory of the data: a run's figures are images."""
    save_classes(tmp_path, prefix)
    save_images(tmp_path, run)
    (tmp_path / run / "best").mkdir()
    (tmp_path / run / "environment.json").write_text("{}")
    first = run.partition("/")[0]
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert f"{first} (runs of sasa train)" in description(sources).replace("/ (", " (")


def test_a_class_called_runs(tmp_path):
    save_classes(tmp_path, "", classes=["runs", "walks"])
    save_images(tmp_path, "runs/fast", "runs/slow")
    (tmp_path / "runs" / "fast" / "environment.json").write_text("{}")
    assert open_splits(str(tmp_path), 0.34, 0)[0].classes == ["runs", "walks"]


CLUTTER = ["__MACOSX", "@eaDir", ".ipynb_checkpoints", ".git", "#recycle", "$RECYCLE.BIN", "System Volume Information"]


@pytest.mark.parametrize("clutter", [*CLUTTER, "lost+found", "__pycache__"])
@pytest.mark.parametrize("place", ["", "train", "train/cat"])
def test_system_files_are_ignored(tmp_path, clutter, place):
    save_classes(tmp_path, "train", "val")
    save_classes(tmp_path / place, clutter)
    save_images(tmp_path / place, clutter)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (tmp_path / place / name).write_bytes(b"x")
    sources = open_splits(str(tmp_path), 0.2, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert [len(source) for source in sources] == [6, 6]
    assert place == "train/cat" or f"{clutter}/ (hidden, or left by a system)" in description(sources)


def test_classes_may_be_named_as_splits_if_they_hold_images(tmp_path):
    save_images(tmp_path, "bus", "car", "train")
    train, _ = open_splits(str(tmp_path), 0.34, 0)
    assert train.classes == ["bus", "car", "train"]


@pytest.mark.parametrize(
    ("directories", "sentence"),
    [
        (["a/cat"], "holds images of one class only, 'cat' .3 images."),
        (["train/cat", "val/cat"], "holds images of one class only, 'cat'"),
        (
            ["Testing/cat", "Testing/dog"],
            "holds Testing/ but no directory with images for training: expected train/CLASS/ beside",
        ),
        (["Val/cat", "Test/cat"], "holds Test/, Val/ but no directory with images for training"),
        (["cat", "dog", "test/cat", "test/dog"], "holds test/ but no directory with images for training"),
        (
            ["train", "test"],
            "holds test/, train/ with images that are in no directory of a class: expected a directory",
        ),
        (["train"], "holds train/ with images that are in no directory of a class: .* as in train/CLASS/"),
        (["train/images", "valid/images"], "holds train/, valid/ with images that are in no directory of a class"),
        (["images/train", "images/val"], "images holds train/, val/ with images that are in no directory of a class"),
        (["train/train", "test/test"], "holds test/, train/ with images that are in no directory of a class"),
        (["cat_train", "cat_test", "dog_train", "dog_test"], "which are named for splits: expected train/CLASS/"),
        (["train_cat", "train_dog", "test_cat", "test_dog"], "which are named for splits: expected train/CLASS/"),
        (["train/cat", "train/dog", "Train/cat", "Train/dog"], "holds two directories for the train split, Train/ and"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "cat holds test/, train/ inside of what would be a class"),
        (["a/b/TRAIN/cat", "a/b/TEST/cat", "c/d/e"], "a/b holds TEST/, TRAIN/ inside of what would be a class"),
        (
            ["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"],
            "whose names are not classes but parts of one directory",
        ),
        (["set/train/cat", "set/val/cat", "more/dog"], "set holds train/, val/ inside of what would be a class"),
        *(
            ([f"{d}/{c}" for d in pair for c in CLASSES], r"each with directories of the same names .cat, dog.: if")
            for pair in (("color", "gray"), ("gallery", "query"), ("tr", "te"), ("amazon/images", "dslr/images"))
        ),
        (["train_images", "train_labels"], "holds train_images/ and train_labels/: masks or annotations of images"),
        (["train/cat", "train/dog", "val/cow"], "val has a class 'cow' that the training images lack .those have cat,"),
        (["train/cat", "train/dog", "val/Cat"], "val has a class 'Cat' that the training images lack .those have cat,"),
    ],
)
def test_refused_layouts(tmp_path, directories, sentence):
    save_images(tmp_path, *directories)
    with pytest.raises(DataError, match=sentence):
        open_splits(str(tmp_path), 0.34, 0)


def test_an_empty_class_directory(tmp_path):
    save_classes(tmp_path, "train", "val")
    (tmp_path / "val" / "new folder").mkdir()
    sources = open_splits(str(tmp_path), 0.2, 0)
    assert f"no images in new folder/ of {tmp_path / 'val'}" in description(sources)
    (tmp_path / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=r"bird holds no images \(1 of 3 classes empty\)"):
        open_splits(str(tmp_path), 0.2, 0)


@pytest.mark.parametrize(
    ("directories", "sentence"),
    [
        (["val/cat", "test/cat"], "not used: {root}/test/ (val/ is the held-out split)"),
        (["test"], "not used: {root}/test/ (its images are in no directories of classes)"),
        (["test/test"], "not used: {root}/test/ (its images are in no directories of classes)"),
        (["test/images"], "not used: {root}/test/ (its images are in no directories of classes)"),
        (["extra/cat"], "not used: {root}/extra/ (it is beside the directories of the splits)"),
        (["cat"], "not used: {root}/cat/ (it is beside the directories of the splits)"),
        (["val/cat"], "held-out: no images of dog"),
    ],
)
def test_unused_files_are_reported(tmp_path, directories, sentence):
    save_classes(tmp_path, "train")
    save_images(tmp_path, *directories)
    assert sentence.format(root=tmp_path) in description(open_splits(str(tmp_path), 0.34, 0))


def test_an_empty_split_is_reported(tmp_path):
    save_classes(tmp_path, "train")
    (tmp_path / "Val").mkdir()
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert f"not used: {tmp_path}/Val/ (it holds no data)" in description(sources)


def test_images_beside_the_classes_are_reported(tmp_path):
    save_classes(tmp_path, "")
    save_images(tmp_path, "")
    assert f"not used: 3 images directly in {tmp_path}" in description(open_splits(str(tmp_path), 0.34, 0))


def test_links_to_training_images_are_reported_in_large_sets_too(tmp_path, monkeypatch):
    monkeypatch.setattr("sasa.data.findings.MOST_COMPARED", 0)
    save_classes(tmp_path, "train", "val")
    (tmp_path / "val" / "dog" / "link.png").symlink_to(tmp_path / "train" / "dog" / "0.png")
    assert "1 of the 7 held-out images are training images" in description(open_splits(str(tmp_path), 0.2, 0))
    (tmp_path / "train" / "cat" / "twin.png").symlink_to("0.png")  # in both splits if they are drawn apart
    found = {seed: description(open_splits(str(tmp_path / "train"), 0.5, seed)) for seed in range(10)}
    assert {"1 of the 4 held-out images are training images" in said for said in found.values()} == {True, False}


@pytest.mark.parametrize("size", [(5, 4), (300, 200)])
def test_the_same_image_in_both_splits_is_reported(tmp_path, size):
    save_classes(tmp_path, "train", "val")
    copy = Image.effect_noise(size, 90)
    copy.save(tmp_path / "train" / "dog" / "twin.png")
    copy.save(tmp_path / "val" / "dog" / "another name.png")
    sentence = (
        "the same image is in both splits: 1 of the 7 held-out images are training images, "
        f"{tmp_path}/val/dog/another name.png is {tmp_path}/train/dog/twin.png"
    )
    assert sentence in open_splits(str(tmp_path), 0.2, 0)[1].description


@pytest.mark.parametrize("inner", ["2019", "train"])
def test_directories_inside_of_classes_are_reported(tmp_path, inner):
    save_images(tmp_path, f"cat/{inner}", "cat/bus", "dog")
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert f"directories inside of cat/ of {tmp_path} are taken as parts of these classes" in description(sources)


def test_unlabelled_images_in_the_wrapper_of_an_archive(tmp_path):
    save_classes(tmp_path, "signs_train/signs_train")
    save_images(tmp_path, "signs_test/signs_test")
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert [len(source) for source in sources] == [4, 2]
    assert f"not used: {tmp_path}/signs_test/ (its images are in no directories of classes)" in description(sources)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("image", "label"),
        ("img", "gt"),
        ("JPEGImages", "SegmentationClass"),
        ("Images", "Ground Truth"),
        ("data", "annotations"),
    ],
)
@pytest.mark.parametrize("split", ["", "train/"])
def test_images_and_masks_are_not_classes(tmp_path, split, images, masks):
    save_images(tmp_path, f"{split}{images}", f"{split}{masks}")
    with pytest.raises(DataError, match=f"holds {images}/ and {masks}/: masks or annotations of images, not classes"):
        open_splits(str(tmp_path), 0.34, 0)


@pytest.mark.parametrize(
    "names", [("mask", "no_mask"), ("with_mask", "without_mask"), ("label", "no label"), ("gt", "rs")]
)
def test_classes_may_be_called_masks(tmp_path, names):
    save_images(tmp_path, *names)
    assert open_splits(str(tmp_path), 0.34, 0)[0].classes == sorted(names)


@pytest.mark.parametrize(
    "mask", ["{}/masks/{}.png", "{}/images/{}_mask.png", "{}/images/{}_mask_1.png", "{}/{}_segmentation.png"]
)
def test_masks_beside_the_images_of_a_class(tmp_path, mask):
    place = "{}/{}.png" if "/images" not in mask and "/masks" not in mask else "{}/images/{}.png"
    for name in (path.format(c, n) for c in CLASSES for n in range(3) for path in (place, mask)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4), next(_colours) % 256).save(tmp_path / name)
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert [len(source) for source in sources] == [4, 2]
    assert f"not used: 6 masks beside their images in cat/, dog/ of {tmp_path}" in description(sources)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".heic", "ending in .heic"), (".NPY", "ending in .npy"), ("", "without a suffix")]
)
def test_files_that_are_not_read_are_reported(tmp_path, suffix, kind):
    save_classes(tmp_path, "")
    for n in range(4):
        (tmp_path / "cat" / f"photo{n}{suffix}").write_bytes(b"x")
    assert f"not used in the classes of {tmp_path}: 4 files {kind}" in description(open_splits(str(tmp_path), 0.34, 0))
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / f"x{suffix}").write_bytes(b"x")
    with pytest.raises(DataError, match=rf"bird holds no images but 1 files {kind} \(1 of 3 classes empty\)"):
        open_splits(str(tmp_path), 0.34, 0)


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "avif", "jp2"])
def test_rarer_suffixes(tmp_path, suffix):
    save_classes(tmp_path, "")
    Image.new("RGB", (5, 4)).save(tmp_path / "cat" / f"new.{suffix}")
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert sum(map(len, sources)) == 7
    assert all(source.read(n).size == (5, 4) for source in sources for n in range(len(source)))


@pytest.mark.parametrize(
    ("directories", "why"),
    [
        (["test"], "its images are in no directories of classes"),
        (["Validation"], "its images are in no directories of classes"),
        (["copy/cat", "copy/dog"], "it holds directories of the same names as beside it"),
    ],
)
def test_directories_beside_the_classes_that_are_none(tmp_path, directories, why):
    save_classes(tmp_path, "")
    save_images(tmp_path, *directories)
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert f"not used: {tmp_path}/{directories[0].partition('/')[0]}/ ({why})" in description(sources)


def test_annotations_beside_the_directory_of_the_splits(tmp_path):
    """ImageNet as Kaggle has it."""
    save_classes(tmp_path / "ILSVRC", "Data/CLS-LOC/train")
    save_images(tmp_path / "ILSVRC", "Data/CLS-LOC/val")
    (tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC" / "train").mkdir(parents=True)
    sources = open_splits(str(tmp_path), 0.34, 0)
    assert sources[0].classes == ["cat", "dog"]
    assert "CLS-LOC/val/ (its images are in no directories of classes)" in description(sources)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS, not the file itself: run git lfs",
        ),
        (b"\n<!DOCTYPE html><html>", "is a web page .HTML., not the file itself: download it again"),
    ],
)
@pytest.mark.parametrize("name", ["train.parquet", "train.tar", "metadata.csv"])
def test_files_that_were_not_downloaded(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} {sentence}"):
        open_splits(str(tmp_path), 0.34, 0)
    with pytest.raises(DataError, match=rf"{name} {sentence}"):
        read_image(tmp_path / name)
