"""The config of one row as a YAML document: a header with the paper's numbers, the cost and the command."""

import json
import shlex
import textwrap

from sasa.counting.count import Count
from sasa.reproduce.plan import Plan
from sasa.reproduce.results import VALIDATION_TABLES
from sasa.reproduce.rows import DETECTION, TABLES, TableRow, title
from sasa.tasks.registry import KNOWN_SETS

WIDTH = 105  # characters of a header line, without its keyword

MEASURED = {  # by us; docs/results.md and docs/detection.md have the conditions
    "cifar10-small": {
        ("1", "r26_baseline"): "65.74 ± 0.48",
        ("1", "r26_full"): "63.73 ± 0.31",
        ("4", "k3"): "64.75 ± 0.69",
        ("4", "k5"): "64.39 ± 0.41",
        ("4", "k7"): "63.73 ± 0.31",
        ("5", "none"): "58.50 ± 0.81",
        ("5", "absolute"): "55.78 ± 0.22",
        ("5", "relative"): "63.73 ± 0.31",
    },
    "bccd-small": {(DETECTION, "attention_convstem"): "57.03 ± 0.65", (DETECTION, "conv_baseline"): "58.77 ± 0.28"},
}


def document(plan: Plan, row: TableRow, data: str) -> str:
    """Return the resolved config of one run as YAML with a header, for `sasa train --config`."""
    return f"{header(plan, row)}{plan.config(row, 0, data).to_yaml()}"


def header(plan: Plan, row: TableRow) -> str:
    """Return the comments before the settings: paper's numbers, cost, commands, expected and measured score."""
    cost, many = plan.count(row), "8 GPUs" in plan.setup.hardware
    lines = [f"# {title(row.table)}.", f"# Row {row.name}: {row.label}. {plan.dataset}, {plan.scale}.", "#"]
    entries = {
        "Question": TABLES[row.table].question,
        "Paper": paper(row),
        "Networks": plan.setup.differs,
        "Counted": (
            f"{cost.flops_calibrated / 1e9:.2f} B FLOPS (calibrated; {cost.flops_simple / 1e9:.2f} simple), "
            f"{cost.parameters / 1e6:.2f} M parameters, for {plan.setup.classes} classes"
        ),
        "Training": training(plan, row, cost),
        "Hardware": plan.setup.hardware,
        "Printed by": f"{_reproduce(plan, plan.validation)} --row {row.name} --print-config > {row.name}.yaml",
        "Dry run": dry_run(plan, row, many),
        "Command": command(plan, row, many),
        "Table": f"{_reproduce(plan, _holds_out(plan, row))} --data DIR --collect",
        "Seeds": f"others with --set run.seed=1 and --output {row.name}-seed1 in the same directory, and so on",
        "Expected": expected(plan, row),
        "Measured": measured(plan, row),
    }
    for name, text in entries.items():
        command_line = name in ("Printed by", "Dry run", "Command", "Table")  # on one line, for copying
        parts = [text] if command_line else textwrap.wrap(text, WIDTH)
        lines += [f"# {f'{name}:' if not number else '':<11} {part}" for number, part in enumerate(parts)]
    return "\n".join(lines) + "\n"


def paper(row: TableRow) -> str:
    """Return the paper's numbers."""
    cells = row.cells
    if not cells:
        return "a point of Figure 5, which prints no numbers; the widths are ours"
    if cells.ap:
        whole, half, three_quarters, small, medium, large = cells.ap
        score = (
            f"mAP {whole}, at 50 {half}, at 75 {three_quarters}; small {small}, medium {medium}, large {large} on COCO"
        )
    else:
        score = (
            f"{cells.top1:.1f} % top-1 on ImageNet, {'validation' if row.table in VALIDATION_TABLES else 'test'} set"
        )
    parameters = f", {cells.parameters:.1f} M parameters" if cells.parameters else ""
    return f"{cells.flops:.1f} B FLOPS{parameters}, {score}"


def training(plan: Plan, row: TableRow, cost: Count) -> str:
    """Return the FLOPS of training on a data set of known size; a backward pass counts as two forward passes."""
    config = plan.config(row, 0, plan.dataset)
    epochs, known = config.recipe.epochs, KNOWN_SETS.get(plan.dataset)
    if not known:
        return f"{epochs} epochs; hours: not measured by us"
    images, forward = known.training, cost.flops
    if _holds_out(plan, row):
        images = round(images * (1 - config.data.held_out))
    return (
        f"3 x {forward / 1e9:.3g}e9 FLOPS (products of a forward pass) x {images:,} images x {epochs} epochs = "
        f"{3 * forward * images * epochs:.2e} FLOPS; hours: not measured by us"
    )


def dry_run(plan: Plan, row: TableRow, many: bool) -> str:
    """Return the command that measures a step on one device, with the batch that each of `many` (8) GPUs would have."""
    words = f"sasa {plan.setup.config.COMMAND} --config {row.name}.yaml --dry-run"
    accumulate = plan.config(row, 0, plan.dataset).recipe.accumulate
    return f"{words} --set recipe.accumulate={8 * accumulate}" if many else words


def command(plan: Plan, row: TableRow, many: bool) -> str:
    """Return the command that trains the row in the directory that `sasa reproduce --collect` reads."""
    data = "DIR/train" if _holds_out(plan, row) else "DIR"  # without the validation images of DIR
    output = f"runs/reproduce/{plan.dataset}-{plan.scale}-{row.table}/runs/{row.name}-seed0"
    words = f"--config {row.name}.yaml --data {data} --output {output}"
    return f"{'torchrun --nproc-per-node 8 -m ' if many else ''}sasa {plan.setup.config.COMMAND} {words}"


def expected(plan: Plan, row: TableRow) -> str:
    """Return the score that a run should reach, if the paper states it."""
    if plan.setup.differs == "the paper's.":
        return "the paper's score" if row.cells else "the paper prints no number"
    return "not the paper's score, because networks and data differ; compare the rows with each other"


def measured(plan: Plan, row: TableRow) -> str:
    """Return our result, or a sentence that there is none."""
    score = MEASURED.get(f"{plan.dataset}-{plan.scale}", {}).get((row.table, row.name))
    if score is None or plan.deciding or plan.epochs or plan.validation:
        return "not measured by us"
    if row.table == DETECTION:
        return f"{score} % mAP on the test images, mean and standard error over 3 seeds (docs/detection.md)"
    return f"{score} % top-1 on the test images, mean and standard error over 3 seeds (docs/results.md)"


def _holds_out(plan: Plan, row: TableRow) -> bool:
    """Return whether a part of the training images is scored, as in the paper's row."""
    return plan.validation or (plan.dataset == "imagenet" and row.table in VALIDATION_TABLES)


def _reproduce(plan: Plan, validation: bool) -> str:
    words = ["sasa", "reproduce", plan.table, "--dataset", plan.dataset, "--scale", plan.scale]
    words += ["--validation"] if validation else []
    for key, value in plan.changes:
        words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)
