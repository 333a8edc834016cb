"""A dry run without the data: generated images replace those of a known set, and no others."""

import pytest

from sasa.errors import DataError
from sasa.tasks.classification.config import resolve
from sasa.tasks.classification.generated import KNOWN_SETS, GeneratedImages
from sasa.tasks.detection.config import resolve as resolve_detection
from sasa.tasks.dry_run import stand_in
from sasa.tasks.train import dry_run


def test_a_config_of_imagenet_runs_dry_without_imagenet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve(
        "imagenet",
        [
            ("model.name", "sasa_resnet26"),
            ("data.image_size", 64),
            ("data.workers", 0),
            ("model.width", 0.25),
            ("run.accelerator", "cpu"),
        ],
    )
    report = dry_run(config)
    assert report["pictures"].startswith("GENERATED: 'imagenet' is not here; 2 steps of one part of 8 images")
    assert (report["classes"], report["training_pictures"], report["held_out_pictures"]) == (1000, 1_281_167, 50_000)
    assert report["steps"] == 130 * (1_281_167 // 4096)
    assert report["estimated_hours"] == pytest.approx(report["seconds_per_step"] * report["steps"] / 3600, abs=0.02)
    assert report["seconds_per_step"] > 1  # of 4,096 images, not of 8
    assert not list(tmp_path.iterdir())


def test_a_config_of_coco_runs_dry_without_coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = [("data.image_size", 96), ("data.workers", 0), ("model.width", 0.1), ("run.accelerator", "cpu")]
    report = dry_run(resolve_detection("coco", [*changes, ("run.precision", "32-true")]))
    assert report["pictures"].startswith("GENERATED: 'coco' is not here; 2 steps of one part of 2 images")
    assert (report["classes"], report["training_pictures"], report["held_out_pictures"]) == (80, 118_287, 5_000)
    assert report["steps"] == 150 * (118_287 // 64)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="imagenet does not exist"):
        dry_run(resolve_detection("coco", [("data.source", "imagenet"), *changes]))


def test_only_the_bare_name_of_a_known_set_is_generated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def known(source):
        return stand_in(resolve("imagenet", [("data.source", source)]))

    assert known("cifar10") == KNOWN_SETS["cifar10"]
    assert known("/data/imagenet") is None
    assert known("coco") is None  # of another task
    (tmp_path / "cifar10").mkdir()
    assert known("cifar10") is None
    with pytest.raises(DataError, match="photos"):
        dry_run(resolve("imagenet", [("data.source", "photos"), ("run.accelerator", "cpu")]))


def test_generated_images_are_a_source():
    source = GeneratedImages(10, 25, 8)
    assert len(source) == 25
    assert source.labels[:12] == [*range(10), 0, 1]
    assert source.read(24).size == (8, 8)
    assert source.read(0, 1).mode == "L"
    assert source.read(1).tobytes() != source.read(2).tobytes()
