"""The configs of the tables are what the generator writes, and say what the recipes and the paper's cells say."""

from pathlib import Path

import pytest
import yaml

from sasa.counting.paper_cells import CELLS
from sasa.reproduce.detection_documents import detection_documents
from sasa.reproduce.documents import documents
from sasa.reproduce.plan import Plan
from sasa.reproduce.rows import CLASSIFYING, NAMES
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.detection.config import DetectionConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = documents()
DETECTION = detection_documents()
BY_HAND = {
    "bccd/attention.yaml",
    "bccd/convolution.yaml",
}


def test_the_files_are_those_of_the_generator():
    there = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert there == BY_HAND | {document.path for document in [*DOCUMENTS, *DETECTION]}
    for document in [*DOCUMENTS, *DETECTION]:
        text = (ROOT / "configs" / document.path).read_text()
        assert text == document.text(), f"{document.path} is old: python configs/make.py"


def test_every_row_of_the_paper_has_its_config_with_its_numbers():
    for table in CLASSIFYING[:-1]:  # without the figure
        rows = CELLS[table]
        own = [d for d in DOCUMENTS if d.dataset == "imagenet" and d.row.table == table]
        assert [d.row.cells for d in own] == list(rows)
        for document, cells in zip(own, rows, strict=True):
            text = (ROOT / "configs" / document.path).read_text()
            assert f"{cells.flops:.1f} B FLOPS" in text
            assert f"{cells.top1:.1f} % top-1" in text
            options = {"name": cells.model, **cells.options}
            assert yaml.safe_load(text)["model"] == options


def test_the_recipe_of_imagenet_is_that_of_the_appendix():
    for document in DOCUMENTS:
        if document.dataset == "imagenet":
            recipe = TrainConfig.read(str(ROOT / "configs" / document.path)).recipe
            assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.warmup_epochs) == (
                130,
                4096,
                1.6,
                10,
            )
            assert (recipe.optimizer, recipe.momentum, recipe.accumulate) == ("sgd", 0.9, 8)
            assert (recipe.batch_norm_momentum, recipe.ema_decay) == (1e-4, 0.9999)


def test_the_recipe_of_coco_is_that_of_the_appendix():
    for document, cells in zip(DETECTION, CELLS["2"], strict=True):
        config = DetectionConfig.read(str(ROOT / "configs" / document.path))
        recipe = config.recipe
        assert config.model == {"name": cells.model}
        assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.warmup_epochs) == (150, 64, 0.12, 1)
        assert (config.data.image_size, config.data.flip, recipe.optimizer) == (640, True, "sgd")
        assert f"mAP {cells.ap[0]}" in document.text()


@pytest.mark.parametrize("dataset", ["imagenet", "cifar10"])
def test_a_config_and_reproduce_make_the_same_run(dataset):
    for document in DOCUMENTS:
        if document.dataset == dataset:
            plan = Plan(document.row.table, dataset, document.scale)
            wanted = plan.config(document.row, 0, dataset)
            assert TrainConfig.read(str(ROOT / "configs" / document.path)).to_dict() == wanted.to_dict(), document.path


def test_configs_of_detection_and_reproduce_make_the_same_run():
    for document in DETECTION:
        plan = Plan("2", "coco", "full")
        row = next(row for row in plan.rows if row.name == document.name)
        config = DetectionConfig.read(str(ROOT / "configs" / document.path))
        assert config.to_dict() == plan.config(row, 0, "coco").to_dict()
    plan = Plan("2", "bccd", "small")
    wanted = dict(zip(NAMES["2"], plan.rows, strict=True))
    for file, name in (("attention", "attention_full"), ("convolution", "conv_baseline")):
        config = DetectionConfig.read(str(ROOT / f"configs/bccd/{file}.yaml"))
        assert config.to_dict() == plan.config(wanted[name], 0, "bccd").to_dict()
