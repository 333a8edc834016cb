"""The files that a reproduction leaves beside its runs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sasa.analysis.count import count
from sasa.models import create_model
from sasa.reproduce.figure import DRAWN, draw
from sasa.reproduce.plan import Plan
from sasa.reproduce.recipes import recipe
from sasa.reproduce.results import results, to_markdown, write, write_csv
from sasa.reproduce.rows import FIGURE, Row
from sasa.reproduce.runs import Run


def write_report(plan: Plan, runs: Sequence[Run], output: Path, command: str) -> str:
    """Write results.csv, table.md and, where the table has one, figure.png; the text of table.md."""
    text = to_markdown(plan, runs, command)
    write_csv(plan, runs, output / "results.csv")
    write(output / "table.md", text)
    if plan.table in DRAWN:
        costs = {row.name: flops(row, plan) for row in plan.rows} if plan.table == FIGURE else {}
        draw(plan, results(plan, runs), costs, output / "figure.png")
    return text


def flops(row: Row, plan: Plan) -> int:
    """Of one picture of the data set, 2 for each multiply-add."""
    data = recipe(plan.dataset, plan.scale)["data"]
    return count_row(row, data["image_size"], data.get("channels", 3), 1000)[0]


def count_row(row: Row, side: int, channels: int, classes: int) -> tuple[int, int]:
    """FLOPS of a picture and parameters of a row's network."""
    options = {name: value for name, value in row.model.items() if name != "name"}
    with torch.device("meta"):
        network = create_model(row.model["name"], **options, in_chans=channels, num_classes=classes)
        counted = count(network, (channels, side, side))
    return counted.flops, counted.parameters
