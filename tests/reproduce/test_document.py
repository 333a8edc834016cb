"""The config that `sasa reproduce --print-config` prints: its settings, and the numbers and commands of its header."""

from pathlib import Path

import pytest
import yaml

from sasa.counting.paper_cells import CELLS
from sasa.errors import UsageError
from sasa.reproduce.document import MEASURED, document, paper
from sasa.reproduce.plan import Plan
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.detection.config import DetectionConfig

DOCS = Path(__file__).parents[2] / "docs"
HEADER = ("Question:", "Paper:", "Networks:", "Counted:", "Hardware:", "Command:", "Measured:")


def printed(plan, name):
    return document(plan, next(row for row in plan.rows if row.name == name), plan.dataset)


@pytest.mark.parametrize(
    ("table", "dataset", "scale"),
    [("7", "imagenet", "full"), ("2", "bccd", "small"), ("5", "cifar10", "full"), ("figure5", "digits", "small")],
)
def test_a_document_is_the_config_of_its_row(table, dataset, scale, tmp_path):
    plan = Plan(table, dataset, scale)
    for row in plan.rows:
        text = document(plan, row, dataset)
        (tmp_path / "row.yaml").write_text(text)
        config = plan.config(row, 0, dataset)
        assert type(config).read(str(tmp_path / "row.yaml")) == config
        for word in HEADER:
            assert f"# {word}" in text
        assert paper(row) in text.replace("\n#             ", " ")


def test_the_header_has_the_papers_numbers():
    for table, cells in CELLS.items():
        plan = Plan(table, "coco" if table == "2" else "imagenet", "full")
        for row, cell in zip(plan.rows, cells, strict=True):
            score = f"mAP {cell.ap[0]}" if table == "2" else f"{cell.top1:.1f} % top-1"
            assert f"{cell.flops:.1f} B FLOPS" in paper(row)
            assert score in paper(row)
    assert "validation set" in paper(Plan("5", "imagenet", "full").rows[0])


def test_the_header_says_where_the_run_is_looked_for():
    text = printed(Plan("1", "imagenet", "full"), "r50_full")
    assert "torchrun --nproc-per-node 8 -m sasa train --config r50_full.yaml --data DIR " in text
    assert "--output runs/reproduce/imagenet-full-1/runs/r50_full-seed0" in text
    assert "# Dry run:    sasa train --config r50_full.yaml --dry-run --set recipe.accumulate=64" in text
    assert "7.19 B FLOPS (calibrated; 7.21 simple), 18.03 M parameters, for 1000 classes" in text
    assert "1,281,167 images x 130 epochs = 3.43e+18 FLOPS" in text


def test_tables_that_the_paper_scores_on_validation_do_not_see_the_other_images():
    text = printed(Plan("3", "imagenet", "full"), "c1a234")
    assert "--data DIR/train --output" in text
    assert "sasa reproduce 3 --dataset imagenet --scale full --validation --data DIR --collect" in text
    assert "1,229,920 images" in text


def test_changes_are_in_the_document_and_in_its_commands():
    plan = Plan("6", "cifar10", "small", changes=[["recipe.epochs", 9], ["model.layers", [1, 1, 1, 1]]])
    text = printed(plan, "qr")
    assert yaml.safe_load(text)["recipe"]["epochs"] == 9
    assert "--set recipe.epochs=9 --set 'model.layers=[1, 1, 1, 1]' --row qr --print-config > qr.yaml" in text
    assert "not measured by us" in text


def test_measured_numbers_are_those_of_the_documents():
    results, detection = (DOCS / "results.md").read_text(), (DOCS / "detection.md").read_text()
    for setup, rows in MEASURED.items():
        dataset, _, scale = setup.partition("-")
        for (table, name), score in rows.items():
            assert f"{score} %" in printed(Plan(table, dataset, scale), name)
            assert score in (detection if table == "2" else results)


@pytest.mark.parametrize(
    ("kind", "path", "command"),
    [
        (TrainConfig, "configs/imagenet/table1_r50_full.yaml", "1 --dataset imagenet --row r50_full"),
        (TrainConfig, "configs/imagenet/figure5_w0500_full.yaml", "figure5 --dataset imagenet --row w0500_full"),
        (TrainConfig, "./configs/cifar10/small/table4_k5.yaml", "4 --dataset cifar10 --scale small --row k5"),
        (DetectionConfig, "configs/coco/table2_conv_full.yaml", "2 --dataset coco --row conv_full"),
        (DetectionConfig, "configs/bccd/convolution.yaml", "2 --dataset bccd --row conv_baseline"),
        (DetectionConfig, "configs/bccd/attention.yaml", "2 --dataset bccd --row attention_full"),
    ],
)
def test_a_path_of_the_former_configs_names_the_new_command(kind, path, command):
    with pytest.raises(UsageError, match=f"its config is now printed by: sasa reproduce {command} --print-config"):
        kind.read(path)
    with pytest.raises(UsageError) as stopped:
        kind.read("configs/mine.yaml")
    assert "print-config" not in str(stopped.value)
