"""A run resumes when its data was moved, but not on different data."""

import json
import shutil

import pytest
import torch

from boxes import tiny as tiny_detection
from boxes import write_boxes, write_json
from runs import assert_equal, state_of, tiny, write_digits
from sasa.errors import DataError
from sasa.tasks.registry import read_config
from sasa.tasks.train import resume, train
from sasa.training.run_directory import RunDirectory
from sasa.training.same_data import check_same_data, directory_of

SMALL = [("recipe.batch_size", 16), ("data.limit", 0), ("run.checkpoint_steps", 2), ("recipe.epochs", 1)]


def interrupted(config, path, monkeypatch):
    """Train until the second checkpoint cannot be written."""
    save, saved = RunDirectory.save_checkpoint, []

    def once(directory, state):
        if saved:
            raise KeyboardInterrupt
        saved.append(save(directory, state))

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", once)
        with pytest.raises(KeyboardInterrupt):
            train(config, path)


def make(kind, root):
    if kind == "boxes":
        return write_boxes(root)
    return write_digits(root, kind, 80)


def config_of(kind, source, *changes):
    if kind == "boxes":
        return tiny_detection(source, ("run.checkpoint_steps", 1), ("recipe.epochs", 1), *changes)
    return tiny(*SMALL, ("data.source", str(source)), *changes)


@pytest.mark.parametrize("kind", ["folder", "parquet", "boxes"])
def test_moved_data_is_the_same_data_and_the_run_is_bit_equal(tmp_path, monkeypatch, kind):
    source = make(kind, tmp_path / "a" / "data")
    train(config_of(kind, source), tmp_path / "whole")
    interrupted(config_of(kind, source), tmp_path / "run", monkeypatch)
    moved = tmp_path / "b" / "other name"
    moved.parent.mkdir()
    shutil.move(source, moved)
    with pytest.raises(DataError):  # the old path no longer exists
        resume(tmp_path / "run")
    resume(tmp_path / "run", [("data.source", str(moved))])
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "run"))
    for name in ("config.yaml", "best/config.yaml"):
        assert read_config(tmp_path / "run" / name).data.source == str(moved)
    resume(tmp_path / "run")  # the new path is recorded


def test_a_corrected_config_is_enough(tmp_path, monkeypatch):
    source = make("folder", tmp_path / "data")
    interrupted(config_of("folder", source), tmp_path / "run", monkeypatch)
    moved = shutil.move(source, tmp_path / "moved")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace(str(source), str(moved)))
    resume(tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["config"]["data"]["source"] == str(moved)


def add_an_image(root):
    shutil.copy(next((root / "3").iterdir()), root / "3" / "another.png")


def add_a_class(root):
    shutil.copytree(root / "3", root / "new")


def rename_an_image(root):
    path = next((root / "3").iterdir())
    path.rename(path.with_name("renamed.png"))


def swap_labels(root):
    for a, b in (("3", "x"), ("4", "3"), ("x", "4")):
        (root / a).rename(root / b)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (add_an_image, r"so many (training|held-out) images: \d+, the run had \d+"),
        (add_a_class, "it has the classes 0, 1, 2, 3, 4, ... .11., the run had 0, 1, 2, 3, 4, ... .10."),
        (rename_an_image, "other file names, labels or boxes"),
        (swap_labels, "other file names, labels or boxes|so many"),
    ],
)
def test_other_images_are_refused(tmp_path, monkeypatch, change, sentence):
    source = make("folder", tmp_path / "data")
    interrupted(config_of("folder", source), tmp_path / "run", monkeypatch)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    change(source)
    with pytest.raises(DataError, match=f"is not the data that the run was trained on: .*({sentence})"):
        resume(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_other_boxes_are_refused(tmp_path, monkeypatch):
    source = make("boxes", tmp_path / "data")
    interrupted(config_of("boxes", source), tmp_path / "run", monkeypatch)
    file = source / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"][-1]["bbox"][2] -= 1
    write_json(source, "train", document)
    with pytest.raises(DataError, match="other file names, labels or boxes"):
        resume(tmp_path / "run")


def test_a_run_without_a_record_of_its_data_is_compared_by_its_classes(tmp_path):
    source = make("folder", tmp_path / "data")
    train(config_of("folder", source), tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["data"]
    torch.save(state, path)
    resume(tmp_path / "run")
    rename_an_image(source)
    resume(tmp_path / "run")  # names were not recorded
    (source / "3").rename(source / "three")
    with pytest.raises(DataError, match="it has the classes 0, 1, 2, 4, 5, "):
        resume(tmp_path / "run")


def test_parts_without_a_record_are_not_compared():
    found = {"classes": ["a"], "training_images": 3, "held_out_images": 1, "fingerprint": "f"}
    check_same_data("photos", {}, found)
    check_same_data("photos", {"classes": ["a"]}, found)
    with pytest.raises(DataError, match=r"photos is not the data .* so many training images: 3, the run had 4"):
        check_same_data("photos", {"training_images": 4}, found)


@pytest.mark.parametrize("source", ["DIR", "DIR/", "DIR/train.parquet", "DIR/train-{0000..0012}.tar"])
def test_the_directory_of_a_source(tmp_path, source):
    (tmp_path / "train.parquet").write_text("")
    assert directory_of(source.replace("DIR", str(tmp_path))) == f"{tmp_path}/"
