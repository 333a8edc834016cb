"""Pipes and sockets with the names of images and annotations: to read one may hang, so that none is opened."""

import errno
import os
import signal
import socket

import pytest

from image_files import save_image
from processes import HANGING
from sasa.cli.inputs import find_images
from sasa.data.classification import ClassFolders, open_splits
from sasa.data.detection import CocoSource, open_detection_splits
from sasa.data.images import read_image
from sasa.data.inspect import inspect
from sasa.errors import DataError

REFUSED = "is a pipe, a socket or a device, not a regular file"


@pytest.fixture(autouse=True)
def ends():
    def fail(number, frame):
        raise TimeoutError("a pipe was read")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HANGING)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)  # paths of sockets have at most 107 characters
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


@pytest.mark.parametrize("make", [os.mkfifo, make_socket])
def test_in_directories_of_classes(tmp_path, make):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        save_image(tmp_path / name, (200, ord(name[0]), ord(name[2])))
    make(tmp_path / "a" / "x.jpg")
    make(tmp_path / "y.png")
    assert len(ClassFolders(tmp_path)) == 4
    assert ClassFolders(tmp_path).description == [
        f"not used in the classes of {tmp_path}: 1 files that are pipes, sockets or devices"
    ]
    assert inspect(str(tmp_path)).problems == []
    (tmp_path / "b" / "z.png").symlink_to(tmp_path / "y.png")
    with pytest.raises(DataError, match=r"b/z\.png is a link that leads to no file"):
        open_splits(str(tmp_path), 0.5, 0)


def test_a_class_of_nothing_else(tmp_path):
    save_image(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "1.png")
    with pytest.raises(DataError, match="b holds no images but 1 files that are pipes, sockets or devices"):
        open_splits(str(tmp_path), 0.5, 0)


def test_in_a_table(tmp_path):
    for number in range(3):
        save_image(tmp_path / f"{number}.png", (200 + number, 0, 0))
    os.mkfifo(tmp_path / "3.png")
    (tmp_path / "train.csv").write_text("file_name,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    problems = inspect(str(tmp_path), held_out=0.5).problems
    assert problems == [f"{tmp_path}/3.png {REFUSED}"]


def test_beside_boxes(tmp_path):
    for number in range(4):
        save_image(tmp_path / "images" / f"{number}.png", (number, 0, 0))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    os.mkfifo(tmp_path / "images" / "x.png")
    (tmp_path / "images" / "directory.png").mkdir()
    train, held_out = open_detection_splits(str(tmp_path), 0.5, 0)
    assert len(train) + len(held_out) == 4
    assert f"not used: {tmp_path}/images/x.png (pipes, sockets or devices)" in train.description


def test_a_directory_that_cannot_be_listed_is_not_left_out(tmp_path, monkeypatch):
    """Permissions do not stop the superuser, as whom tests may run."""
    for number in range(4):
        place = tmp_path / "images" / "x" / ("deep" if number % 2 else "")
        save_image(place / f"{number}.png", (number, 0, 0))
        label = tmp_path / "labels" / place.relative_to(tmp_path / "images") / f"{number}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    assert len(find_images([str(tmp_path / "images")])) == 4
    scan = os.scandir

    def refused(path):
        if os.fspath(path).endswith("images/x/deep"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    for read in (lambda: open_detection_splits(str(tmp_path), 0.5, 0), lambda: find_images([str(tmp_path)])):
        with pytest.raises(DataError, match="images/x/deep cannot be read: Permission denied"):
            read()


def test_in_annotations(coco, voc, tmp_path):
    box = {"image_id": 10, "category_id": 3, "bbox": [1, 1, 5, 5]}
    path, images = coco([box, box | {"image_id": 20}])
    (images / "b.png").unlink()
    os.mkfifo(images / "b.png")
    source = CocoSource(path, images)
    assert source.fingerprint(1) is None
    with pytest.raises(DataError, match=rf"b\.png {REFUSED}"):
        source.read(1)
    root = voc({"train": {"1": [("cat", (1, 1, 9, 9))]}, "val": {"2": [("cat", (1, 1, 9, 9))]}}, tmp_path / "voc")
    (root / "Annotations" / "2.xml").unlink()
    os.mkfifo(root / "Annotations" / "2.xml")
    with pytest.raises(DataError, match=rf"2\.xml {REFUSED}"):
        open_detection_splits(str(root), 0.2, 0)


def test_given_as_data_and_as_an_image(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match=rf"x\.png {REFUSED}"):
        read_image(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png' is not a directory|cannot be read: Not a directory"):
        open_splits(str(tmp_path / "x.png"), 0.2, 0)
    with pytest.raises(DataError, match=r"x\.png is not a directory|cannot be read: Not a directory"):
        open_detection_splits(str(tmp_path / "x.png"), 0.2, 0)
