"""Data sets that hold two candidates for one thing: an error names both, or a sentence says which is used."""

import os
import shutil

import pytest

from image_files import save_image
from sasa.data.detection import open_detection_splits
from sasa.errors import DataError

DOG = ("dog", (1, 1, 4, 3))
DOGS = {str(n): [DOG] for n in range(4)}
LINE = "0 0.5 0.5 0.25 0.2\n"
BOX = {"id": 1, "image_id": 10, "category_id": 3, "bbox": [5, 6, 10, 20], "iscrowd": 0}
CAT = [{"id": 3, "name": "cat"}]


def opened(root):
    """Everything that is said about a data set, and the number of its images."""
    sources = open_detection_splits(str(root), 0.25, 0)
    return "\n".join(sentence for source in sources for sentence in source.description), tuple(map(len, sources))


def write_yolo(root, *directories):
    """Two images with boxes in each directory, the boxes in labels/ in place of images/."""
    for number, directory in enumerate(directories):
        for name in "ab":
            save_image(root / directory / f"{name}.png", (number, ord(name), 0))
            label = root / directory.replace("images", "labels") / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(LINE)


@pytest.mark.parametrize(
    ("split", "names"),
    [("train", ("train.txt", "training.txt")), ("val", ("val.txt", "valid.txt")), ("trainval", ("train_val.txt",))],
)
def test_two_lists_of_voc_for_a_split(voc, split, names):
    root = voc({"train": {"1": [DOG]}, "trainval": {"1": [DOG], "3": [DOG]}, "val": {"2": [DOG]}})
    for name in names:
        (root / "ImageSets" / "Main" / name).write_text("3\n")
    first, second = sorted({f"{split}.txt", *names})
    sentence = rf"Main holds two lists for the {split} split, {first} and {second}: move one away"
    with pytest.raises(DataError, match=sentence):
        opened(root)


def test_a_list_called_train_val_holds_the_validation_images(voc):
    root = voc({"train_val": {"1": [DOG], "2": [DOG], "3": [DOG]}, "val": {"2": [DOG]}})
    assert opened(root)[1] == (2, 1)


def test_lists_of_voc_in_two_places(voc):
    root = voc({"train": {"1": [DOG]}, "val": {"2": [DOG]}})
    shutil.copy(root / "ImageSets" / "Main" / "val.txt", root / "ImageSets" / "train.txt")
    (root / "train.txt").write_text("1\n2\n")
    (root / "classes.txt").write_text("dog\n")
    said, sizes = opened(root)
    assert f"not used: {root}/ImageSets/train.txt, {root}/train.txt (lists are read from {root}/ImageSets/Main)" in said
    assert sizes == (1, 1)
    for name in ("train", "val"):
        (root / "ImageSets" / "Main" / f"{name}.txt").unlink()
    (root / "ImageSets" / "val.txt").write_text("1\n")
    said, _ = opened(root)
    assert f"not used: {root}/train.txt (lists are read from {root}/ImageSets)" in said
    shutil.rmtree(root / "ImageSets")
    said, sizes = opened(voc({}, root))
    assert f"not used: {root}/train.txt (lists are read from ImageSets/Main/)" in said
    assert sizes == (1, 1)


def test_two_directories_of_voc_annotations(voc):
    root = voc({"train": DOGS})
    shutil.copytree(root / "Annotations", root / "xmls")
    sentence = r"holds 2 directories of XML files \(Annotations, xmls\): move the others away"
    with pytest.raises(DataError, match=sentence):
        opened(root)
    shutil.rmtree(root / "Annotations")
    (root / "Annotations").mkdir()  # empty: not a candidate
    assert opened(root)[1] == (3, 1)


def test_two_directories_of_voc_images(voc):
    root = voc({"train": DOGS})
    shutil.copytree(root / "JPEGImages", root / "images")
    assert f"not used: {root}/images (the images are those of {root}/JPEGImages)" in opened(root)[0]
    shutil.rmtree(root / "JPEGImages")
    (root / "JPEGImages").mkdir()
    assert opened(root)[1] == (3, 1)


def test_two_images_for_one_file_of_boxes(voc):
    root = voc({"train": DOGS})
    save_image(root / "JPEGImages" / "1.png")
    sentence = r"names 4 images, of which 1 are not in .*JPEGImages: 1 \(there are several: 1\.\w+, 1\.\w+\)"
    with pytest.raises(DataError, match=sentence):
        opened(root)


def test_directories_of_splits_beside_voc_annotations(voc):
    root = voc({"train": DOGS})
    shutil.copytree(root / "Annotations", root / "val")
    assert f"not used: {root}/val (the annotations are those of {root}/Annotations)" in opened(root)[0]


def test_two_lists_of_darknet_for_a_split(tmp_path):
    write_yolo(tmp_path, "data")
    (tmp_path / "obj.names").write_text("cat\n")
    for name in ("train.txt", "training.txt"):
        (tmp_path / name).write_text("data/a.png\n")
    sentence = r"holds two lists for the train split, train\.txt and training\.txt: move one away"
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path)


def test_two_entries_of_data_yaml_for_a_split(tmp_path):
    write_yolo(tmp_path, "images/train", "images/val", "images/valid")
    settings = "names: [cat]\ntrain: images/train\nval: images/val\n"
    (tmp_path / "data.yaml").write_text(f"{settings}valid: ./images/val\ntrain_images: 2\n")
    assert opened(tmp_path)[1] == (2, 2)
    (tmp_path / "data.yaml").write_text(f"{settings}valid: images/valid\n")
    sentence = r"data\.yaml names two places for the val split, .*images/val and .*images/valid: remove one"
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path)


def test_lists_and_directories_of_splits_beside_yolo_images(tmp_path):
    write_yolo(tmp_path, "images", "train/images", "valid/images")
    (tmp_path / "val.txt").write_text("images/a.png\n")
    said, sizes = opened(tmp_path)
    assert f"not used: {tmp_path}/train, {tmp_path}/valid (the images are those of {tmp_path}/images)" in said
    assert f"not used: {tmp_path}/val.txt (the images are those of {tmp_path}/images; a data.yaml can name" in said
    assert sizes == (1, 1)


def test_two_files_of_class_names(tmp_path):
    write_yolo(tmp_path, "images")
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "labels" / "classes.txt").write_text("cat \n\n")
    opened(tmp_path)
    (tmp_path / "labels" / "classes.txt").write_text("dog\n")
    sentence = r"classes\.txt and .*labels/classes\.txt name different classes: move one away"
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path)


def test_directories_whose_names_differ_in_case(tmp_path):
    write_yolo(tmp_path, "images", "Images")
    with pytest.raises(DataError, match="holds both Images/, images/: move one away"):
        opened(tmp_path)


def test_coco_files_in_two_places(coco, tmp_path):
    for path in ("annotations/instances_train.json", "instances_train.json", "labels/instances_val.json"):
        coco([BOX], [f"{n}.png" for n in range(4)], CAT, tmp_path / path, tmp_path / "images")
    said, sizes = opened(tmp_path)
    others = f"{tmp_path}/labels/instances_val.json, {tmp_path}/instances_train.json"
    assert f"not used: {others} (another file is of that split, or their names say none)" in said
    assert sizes == (3, 1)


def test_images_in_two_directories(coco, tmp_path):
    names = [f"{n}.png" for n in range(4)]
    coco([BOX], names, CAT, tmp_path / "annotations" / "instances_train.json", tmp_path / "train")
    (tmp_path / "images").mkdir()
    for name in names:
        os.link(tmp_path / "train" / name, tmp_path / "images" / name)
    assert "not used" not in opened(tmp_path)[0]  # the same files
    for name in names:
        (tmp_path / "images" / name).unlink()
        save_image(tmp_path / "images" / name, (0, 0, 9), (40, 30))
    where = f"{tmp_path}/annotations/instances_train.json"
    sentence = f"not used: {tmp_path}/images (the images that {where} names are those of {tmp_path}/train)"
    assert sentence in opened(tmp_path)[0]
