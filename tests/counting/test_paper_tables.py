"""Our counts against every cell of the paper's tables, and against its claims."""

import json

import pytest

from sasa.counting import claims, tables, to_text
from sasa.counting.paper_cells import CELLS
from sasa.counting.paper_tables import CLAIMS
from sasa.models import list_models

# Largest accepted differences to the paper's cells, in %.
PARAMETERS, SIMPLE, CALIBRATED = 0.7, 2.0, 1.0
DETECTION = 0.5, 1.5, 1.5  # Table 2
FULL_DETECTION = 0.5, 4.0, 4.0  # the cells do not include what its stem costs at 640 pixels


@pytest.fixture(scope="module")
def counted():
    return {table.name: table for table in tables()}


def bounds(table, model):
    if table != "2":
        return PARAMETERS, SIMPLE, CALIBRATED
    return DETECTION if model == "retinanet_resnet50" or "convstem" in model else FULL_DETECTION


@pytest.mark.parametrize(("table", "index"), [(name, n) for name, rows in CELLS.items() for n in range(len(rows))])
def test_every_cell(counted, table, index):
    row = counted[table].rows[index]
    assert row.cells is CELLS[table][index]
    off = row.differences
    parameters, simple, calibrated = bounds(table, row.cells.model)
    assert abs(off["flops_simple"]) <= simple
    assert abs(off["flops_calibrated"]) <= calibrated
    if row.cells.parameters is None:
        assert off["parameters"] is None
    else:
        assert abs(off["parameters"]) <= parameters


def test_the_networks_are_those_of_the_library():
    assert {row.model for rows in CELLS.values() for row in rows} <= set(list_models())
    assert [len(rows) for rows in CELLS.values()] == [9, 5, 8, 5, 3, 2, 3]


def test_parameters_are_constant_in_table_4(counted):
    parameters = [row.ours.parameters for row in counted["4"].rows]
    assert parameters == sorted(parameters)
    # k * d relative values a layer and nothing else: 64, 128, 256, 512 channels in 3, 4, 6, 3 layers.
    assert parameters[-1] - parameters[0] == (11 - 3) * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512)
    assert parameters[-1] / parameters[0] < 1.002


def test_claims():
    flops, parameters, *detection, constant, cost = claims()
    assert len(detection) == 4
    assert flops.values == pytest.approx(
        {"stated": 12, "from the paper's cells": 12.2, "simple": 11.9, "calibrated": 12.8}, abs=0.05
    )
    assert parameters.values == pytest.approx({"stated": 29, "from the paper's cells": 29.7, "ours": 29.4}, abs=0.06)
    assert max(constant.values.values()) - min(constant.values.values()) < 0.05
    assert list(cost.values.values()) == [
        9 * 128 * 128 / 1e3,  # 147.5
        (3 * 128 * 128 + 2 * 19 * 19 * 128) / 1e3,  # 141.6
        (3 * 128 * 128 + 2 * 19 * 19 * 128 + 19 * 128) / 1e3,  # 144.0
    ]


def test_claims_of_detection():
    backbone, full, flops, pyramid = claims("2")
    stated = [(22, 22.5, 22.5), (34, 34.1, 34.1)]
    for claim, (said, cells, ours) in zip((backbone, full), stated, strict=True):
        assert claim.values == pytest.approx({"stated": said, "from the paper's cells": cells, "ours": ours}, abs=0.06)
        assert f"{said} % fewer parameters" in claim.sentence
    assert flops.values == pytest.approx(
        {"stated": 39, "from the paper's cells": 39.6, "simple": 37.4, "calibrated": 38.1}, abs=0.06
    )
    assert pyramid.unit == "M parameters"
    assert pyramid.values == pytest.approx(
        {"the paper's cell": 22.0, "attention in the heads": 22.01, "in the pyramid too": 20.06}, abs=0.006
    )


def test_claims_by_table():
    assert claims("3") == []
    assert [len(claims(name)) for name in ("1", 2, "table4")] == [2, 4, 1]
    assert claims(["4", "1"]) == [*claims("4"), *claims("1")]
    assert set(CLAIMS) - {""} <= set(CELLS)
    with pytest.raises(ValueError, match="there is no table 'nine'; the tables are 1, 2"):
        claims("nine")


def test_table_2_is_of_detection(counted):
    assert all(row.cells.top1 is None and len(row.cells.ap) == 6 for row in counted["2"].rows)
    assert all(row.cells.top1 is not None and not row.cells.ap for name in "134567" for row in counted[name].rows)
    text = to_text([counted["2"]])
    assert "mAP %" in text
    assert "top-1" not in text
    assert "|  36.5 |     33.4 | 33.42 | +0.05 % |   182.0 | 182.33 | +0.18 % |     182.93 | +0.51 % |" in text
    plain = counted["2"].to_dict()["rows"][4]["paper"]
    assert (plain["top1"], list(plain["ap"])) == (None, [36.6, 54.5, 39.2, 18.5, 40.6, 51.6])


@pytest.mark.parametrize("names", ["6", 6, "table6", "Table 6", ["6"], (6,)])
def test_tables_by_name(names):
    assert [table.name for table in tables(names)] == ["6"]


def test_tables_come_in_the_order_of_the_names():
    assert [table.name for table in tables(["7", "6"])] == ["7", "6"]


@pytest.mark.parametrize("name", [8, "table8", "figure5"])
def test_unknown_table(name):
    with pytest.raises(ValueError, match=rf"there is no table '?{name}'?; the tables are 1, 2, 3, 4, 5, 6, 7$"):
        tables(["1", name])


def test_text_is_aligned_and_complete(counted):
    text = to_text(counted.values(), claims())
    for table in counted.values():
        assert f"Table {table.name}. {table.title}" in text
        assert all(row.cells.label in text for row in table.rows)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1
            assert len({line.count("|") for line in block.splitlines()}) == 1  # a label holds no separator
    assert "|    77.6 |     18.0 | 18.03 | +0.17 % |     7.2 |   7.21 | +0.08 % |       7.19 | -0.20 % |" in text
    assert to_text([]) == ""


def test_dictionaries_can_be_written_as_json(counted):
    plain = [table.to_dict() for table in counted.values()] + [claim.to_dict() for claim in claims()]
    assert json.loads(json.dumps(plain)) == plain
    row = counted["4"].to_dict()["rows"][0]
    assert row["options"] == {"kernel_size": 3}
    assert row["paper"] == {"flops": 6.6, "parameters": None, "top1": 76.4, "ap": []}
    assert row["ours"]["flops_simple"] == counted["4"].rows[0].ours.flops_simple
    assert row["difference_percent"]["parameters"] is None
