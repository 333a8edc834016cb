"""The files of configs/: each row of a table as a document, with the paper's numbers and what it would cost.

`python configs/make.py` writes them, so that ninety headers cannot drift from what the library counts and from the
recipes that `sasa reproduce` runs; a test compares.
"""

import functools
import json
import textwrap
from dataclasses import dataclass
from typing import Any

import torch

from sasa.counting.count import Count, count
from sasa.models import create_model
from sasa.reproduce.recipes import RECIPES, recipe
from sasa.reproduce.results import VALIDATION_TABLES
from sasa.reproduce.rows import CLASSIFYING, FIGURE, NETWORKS, Row, rows, title
from sasa.tasks.registry import KNOWN_SETS

QUESTIONS = {
    "1": "what does attention do in place of every spatial convolution, and of the stem, at each depth?",
    "3": "which groups of layers should be convolution, and which attention?",
    "4": "how wide must the window of attention be?",
    "5": "what is it worth that attention knows where the pixels are?",
    "6": "is the relative position alone enough to attend by?",
    "7": "must the values of the attention stem know their place?",
    FIGURE: "how do accuracy, FLOPS and parameters grow with the width?",
}
MEASURED = {("cifar10", "small", table) for table in ("1", "4", "5")}
NOT_YET = "not measured by us"
MANY = "--nnodes 8 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500"
SLURM = "--ntasks-per-node 8 --gpus-per-node 8 --cpus-per-task 9 --signal=SIGTERM@120 --kill-on-bad-exit=1"
ACCUMULATE = 8  # of the ImageNet recipe
SETS = {"imagenet": "ImageNet", "cifar10": "CIFAR-10"}
# Figure 5 is the paper's on ImageNet only; `sasa reproduce figure5` runs it on CIFAR-10 too.
WRITTEN = {
    ("imagenet", "full"): CLASSIFYING,
    ("cifar10", "full"): CLASSIFYING[:-1],
    ("cifar10", "small"): CLASSIFYING[:-1],
}


@dataclass(frozen=True)
class Document:
    """A config: its path below configs/, and its row."""

    row: Row
    dataset: str
    scale: str

    @property
    def path(self) -> str:
        """imagenet/table1_r26_full.yaml, cifar10/small/table4_k3.yaml."""
        folder = self.dataset if self.scale == "full" else f"{self.dataset}/{self.scale}"
        return f"{folder}/{group(self.row.table)}_{self.row.name}.yaml"

    @property
    def run(self) -> str:
        """Where `sasa reproduce` looks for the run with seed 0."""
        return f"runs/reproduce/{self.dataset}-{self.scale}-{self.row.table}/runs/{self.row.name}-seed0"

    def text(self) -> str:
        """The whole file."""
        model = "".join(f"  {name}: {written(value)}\n" for name, value in self.row.model.items())
        return f"{header(self)}model:\n{model}{RECIPES[self.dataset, self.scale]}"


def documents() -> list[Document]:
    """All configs that are written, in the order of the tables."""
    return [
        Document(row, dataset, scale)
        for (dataset, scale), tables in WRITTEN.items()
        for table in tables
        for row in rows(table, dataset, scale)
    ]


def group(table: str) -> str:
    """ "table1" or "figure5"."""
    return table if table == FIGURE else f"table{table}"


def written(value: Any) -> str:
    """A value as YAML has it; text that YAML would take for something else in quotes."""
    import yaml

    plain = isinstance(value, str) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value)


def header(document: Document) -> str:
    """Comments before the settings."""
    row, scale = document.row, "" if document.scale == "full" else ", small"
    of = "Row of" if document.dataset == "imagenet" else "After the paper's"
    lines = [f"# {SETS[document.dataset]}{scale}: {row.label}.", f"# {of} {title(row.table)}.", "#"]
    return as_comments(lines, entries(document))


def as_comments(lines: list[str], entries: dict[str, str]) -> str:
    """Some lines, then a paragraph for each entry behind its word; commands stay on one line, to be copied."""
    for name, text in entries.items():
        wrapped = [text] if text.startswith(("sasa", "torchrun", "srun")) else textwrap.wrap(text, 105)
        lines += [f"# {(name + ':') if not number else '':<10} {part}" for number, part in enumerate(wrapped)]
    return "\n".join(lines) + "\n#\n# Written by configs/make.py: change src/sasa/reproduce/ and run it again.\n"


def entries(document: Document) -> dict[str, str]:
    """What the header says, by its first word."""
    imagenet = document.dataset == "imagenet"
    return {
        "Question": QUESTIONS[document.row.table],
        "Paper": paper(document.row) if imagenet else f"(ImageNet) {paper(document.row)}",
        **({} if imagenet else {"Networks": NETWORKS[document.dataset, document.scale]}),
        "Counted": counted(document),
        "Cost": cost(document),
        "Hardware": hardware(document),
        **commands(document),
        "Seeds": "others with --set run.seed=1 and --output ...-seed1, and so on",
        "Same run": twins(document),
        "Measured": "docs/results.md"
        if (document.dataset, document.scale, document.row.table) in MEASURED
        else NOT_YET,
    }


def paper(row: Row) -> str:
    """The cells of the row."""
    if not row.cells:
        return "a point of Figure 5, which prints no numbers; the widths are ours"
    cells = row.cells
    parameters = f", {cells.parameters:.1f} M parameters" if cells.parameters else ""
    split = "the validation split" if row.table in VALIDATION_TABLES else "the test set"
    return f"{cells.flops:.1f} B FLOPS{parameters}, {cells.top1:.1f} % top-1 on {split}"


def counted(document: Document) -> str:
    """Ours in the paper's units."""
    cost = count_of(document)
    return (
        f"{cost.flops_calibrated / 1e9:.2f} B FLOPS (calibrated; {cost.flops_simple / 1e9:.2f} simple), "
        f"{cost.parameters / 1e6:.2f} M parameters, for {document.dataset}'s "
        f"{KNOWN_SETS[document.dataset].classes} classes"
    )


def cost(document: Document) -> str:
    """Training as arithmetic: a backward pass counted as two forward ones."""
    forward, images = count_of(document).flops, KNOWN_SETS[document.dataset].training
    settings = recipe(document.dataset, document.scale)
    if tunes(document):
        images = round(images * (1 - settings["data"]["held_out"]))
    epochs = settings["recipe"]["epochs"]
    return (
        f"3 x {forward / 1e9:.3g}e9 FLOPS (products of a forward pass) x {images:,} images x {epochs} epochs = "
        f"{3 * forward * images * epochs:.2e} FLOPS; hours: not measured by us"
    )


def tunes(document: Document) -> bool:
    """Whether it trains on a part of the training images, and is scored on the rest, as the paper's row."""
    return document.dataset == "imagenet" and document.row.table in VALIDATION_TABLES


def hardware(document: Document) -> str:
    """What it is meant for."""
    return {
        ("imagenet", "full"): "one machine of 8 GPUs, or 8 of them; batches of 4,096 on both",
        ("cifar10", "full"): "one GPU",
        ("cifar10", "small"): "2 CPU cores",
    }[document.dataset, document.scale]


def commands(document: Document) -> dict[str, str]:
    """To try it, to run it, and to run it on many machines."""
    config, row = f"--config configs/{document.path}", document.row
    data = "DIR/train" if tunes(document) else "DIR"  # val/ is not to be seen
    words = f"train {config} --data {data} --output {document.run}"
    table = f"sasa reproduce {row.table} --dataset {document.dataset} --scale {document.scale} --data DIR"
    if document.dataset != "imagenet":
        return {"Dry run": f"sasa train {config} --dry-run", "Command": f"sasa {words}", "Table": table}
    validation = " --validation" if tunes(document) else ""
    return {
        # One process is to take parts as large as those of each of 8.
        "Dry run": f"sasa train {config} --dry-run --set recipe.accumulate={8 * ACCUMULATE}",
        "Command": f"torchrun --nproc-per-node 8 -m sasa {words}",
        "Many": f"torchrun {MANY} -m sasa {words} --set recipe.accumulate=1",
        "Slurm": f"srun --nodes 8 {SLURM} sasa {words} --set recipe.accumulate=1",
        "Table": f"{table}{validation} --collect",
    }


def twins(document: Document) -> str:
    """The other documents that are the same run: one of them is enough."""
    same = [
        other.path.rpartition("/")[2]
        for other in documents()
        if other.path != document.path and _run(other) == _run(document)
    ]
    return ", ".join(same) or "none"


def _run(document: Document) -> tuple[str, str, bool, dict[str, Any]]:
    """What decides it: the images, and the network, which two rows may reach by different words."""
    return document.dataset, document.scale, tunes(document), resolved(document.row)


def resolved(row: Row) -> dict[str, Any]:
    """All options of a row's network."""
    return network_options(json.dumps(row.model, sort_keys=True))


@functools.cache
def network_options(model: str) -> dict[str, Any]:
    """The same of a model section as JSON."""
    options = json.loads(model)
    with torch.device("meta"):
        return create_model(options.pop("name"), **options).config.to_dict()  # pyright: ignore


def count_of(document: Document) -> Count:
    """FLOPS of one image, parameters, for the data set's classes."""
    size = recipe(document.dataset, document.scale)["data"]["image_size"]
    classes = KNOWN_SETS[document.dataset].classes
    return counted_network(json.dumps({**resolved(document.row), "num_classes": classes}), size)


@functools.cache
def counted_network(options: str, size: int) -> Count:
    """The count of a network by its options as JSON; many rows share one."""
    from sasa.models import ResNet, ResNetConfig

    with torch.device("meta"):
        return count(ResNet(ResNetConfig.from_dict(json.loads(options)), "counted"), (3, size, size))
