"""The files that a reproduction leaves beside its runs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sasa.counting.count import count
from sasa.models import create_model
from sasa.reproduce.figure import DRAWN, draw
from sasa.reproduce.plan import Plan
from sasa.reproduce.results import results, to_markdown, write, write_csv
from sasa.reproduce.rows import FIGURE, Row
from sasa.reproduce.runs import Run
from sasa.reproduce.same_images import check_images
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.registry import KNOWN_SETS

CLASSES = {"digits": 10, **{name: known.classes for name, known in KNOWN_SETS.items()}}


def write_report(plan: Plan, runs: Sequence[Run], output: Path, command: str) -> str:
    """Write results.csv, table.md and, where the table has one, figure.png; the text of table.md.

    Raises:
        SasaError: runs on different data; a file that cannot be written.
    """
    check_images(plan, runs)
    text = to_markdown(plan, runs, command)
    write_csv(plan, runs, output / "results.csv")
    write(output / "table.md", text)
    if plan.table in DRAWN:
        costs = {row.name: flops(row, plan) for row in plan.rows} if plan.table == FIGURE else {}
        draw(plan, results(plan, runs), costs, output / "figure.png")
    return text


def flops(row: Row, plan: Plan) -> int:
    """Of one image of the data set, 2 for each multiply-add; with the settings of the plan."""
    config = plan.config(row, 0, plan.dataset)
    assert isinstance(config, TrainConfig)  # the figure is of classification
    options = {"num_classes": CLASSES[plan.dataset], **config.model, "in_chans": config.data.channels}
    with torch.device("meta"):
        network = create_model(options.pop("name"), **options)
        return count(network, (config.data.channels, config.data.image_size, config.data.image_size)).flops
