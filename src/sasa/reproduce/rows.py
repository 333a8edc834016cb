"""The rows of the paper's tables as networks to train: on ImageNet the paper's, on smaller images what fits them.

**CIFAR-10, full**: the paper's stems reduce an image four times, which leaves 1 x 1 in the last group of a 32 x 32
one. So all networks see 32 x 32 maps in the first group: behind a 3 x 3 convolution (`small_conv`) in place of the
convolutional stem, behind attention (`small_attention`) in place of the attention stem. Only Table 7, which is about
the paper's stem, has that stem, with 2 x 2 blocks. Tables 3 to 7 and Figure 5 have ResNet-26 in place of ResNet-50:
three seeds of it cost less than two of ResNet-50.

**small**: ResNet-26 of a quarter of the width, the attention stem with 2 x 2 blocks in every network, so that twins see
the same maps, of a quarter of the pixels. The option that a table varies, position say, so holds for the stem as well.
On CIFAR-10 eight heads, though they have 2 channels each in the first group, and no ReLU after the stem: that was
better on validation (docs/choices.md). The digits have two heads and masked windows: their last maps are 2 x 2 and
1 x 1.
Figure 5 has two heads, for its narrowest networks have no room for more.

**Table 2** is of detection, and has data sets of its own: on COCO the paper's networks, on BCCD's few hundred blood
cells ResNet-26 of a quarter of the width, with shortcuts in the attention heads (docs/choices.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sasa.counting.paper_cells import CELLS, TITLES, Cells
from sasa.errors import UsageError
from sasa.models.variants import VARIANTS
from sasa.reproduce.measures import BOXES, DETECTION

Options = dict[str, Any]

FIGURE = "figure5"
TABLES = (*CELLS, FIGURE)
CLASSIFYING = tuple(table for table in TABLES if table != DETECTION)
WIDTHS = {"full": (0.5, 0.75, 1.0, 1.25), "small": (0.125, 0.25, 0.375)}  # ours: the figure prints no numbers
SMALL: Options = {"name": "sasa_resnet26", "width": 0.25, "stem_block": 2}
SMALL_STEMS = {"conv": "small_conv", "attention": "small_attention"}

# Short names for files and folders, in the order of the rows in paper_cells.py.
NAMES = {
    "1": tuple(f"r{depth}_{kind}" for depth in (26, 38, 50) for kind in ("baseline", "convstem", "full")),
    "2": ("conv_baseline", "conv_convstem", "conv_full", "attention_convstem", "attention_full"),
    "3": ("a1234", "c1a234", "c12a34", "c123a4", "c1234", "c234a1", "c34a12", "c4a123"),
    "4": ("k3", "k5", "k7", "k9", "k11"),
    "5": ("none", "absolute", "relative"),
    "6": ("qr", "qk_qr"),
    "7": ("pointwise", "convolution", "mixture"),
}
# What the other rows of a table are compared with; in Table 1 and Figure 5 it is the baseline of the same size.
BESIDE = {"2": "conv_baseline", "3": "c1234", "4": "k7", "5": "relative", "6": "qk_qr", "7": "mixture"}
LEFT_OUT = {  # of the small tables
    # There the stem is the same in all networks, and one of both attention networks is left.
    "1": {name for name in NAMES["1"] if name not in ("r26_baseline", "r26_full")},
    "4": {"k9", "k11"},  # wider than most of the maps, which are 16, 8, 4 and 2 pixels wide
}


DETECTOR: Options = {"width": 0.25, "num_heads": 2}

NETWORKS = {  # what a table says of ours, so that nobody takes them for the paper's
    ("imagenet", "full"): "the paper's.",
    (
        "cifar10",
        "full",
    ): "first group at 32 x 32 behind a 3 x 3 convolution or attention in place of the paper's stems; "
    "outside of Table 1 ResNet-26 in place of ResNet-50; in Table 7 the paper's stem with 2 x 2 blocks.",
    (
        "cifar10",
        "small",
    ): "ResNet-26 of a quarter of the width, the attention stem with 2 x 2 blocks, without ReLU, in all of them.",
    ("digits", "small"): "ResNet-26 of a quarter of the width, the attention stem with 2 x 2 blocks in all of them.",
    ("coco", "full"): "the paper's.",
    ("bccd", "small"): "RetinaNet of ResNet-26 in place of ResNet-50, a quarter of the width, two heads; a shortcut "
    "around each layer of the attention heads, which the paper's have not.",
}


@dataclass(frozen=True)
class Row:
    """One network of a table.

    Args:
        table: of the paper, "1" to "7" or "figure5".
        name: short, for files and folders.
        label: what it is called in the paper.
        model: the section of a config: `name`, and options of `sasa.create_model`.
        cells: the paper's numbers; None where it prints none.
        beside: the name of the row that it is compared with, None for that row itself.
    """

    table: str
    name: str
    label: str
    model: Options
    cells: Cells | None
    beside: str | None


def table_name(text: str) -> str:
    """ "4" of "4", "table4" or "Table 4"; "figure5" of "figure 5".

    Raises:
        UsageError: no table that has networks.
    """
    short = text.lower().replace(" ", "")
    name = short.removeprefix("table")
    if name not in TABLES:
        raise UsageError(f"{text!r} is no table to reproduce: {', '.join(TABLES)} are")
    return name


def tables_of(dataset: str) -> tuple[str, ...]:
    """What can be reproduced on a data set: with boxes Table 2, with classes the others."""
    return (DETECTION,) if dataset in BOXES else CLASSIFYING


def title(table: str) -> str:
    """What the table is about, in a line."""
    if table == FIGURE:
        return "Figure 5. Accuracy over parameters and FLOPS at several widths"
    return f"Table {table}. {TITLES[table]}"


def rows(table: str, dataset: str, scale: str) -> tuple[Row, ...]:
    """The rows of a table for a data set, in the paper's order."""
    made = _widths(dataset, scale) if table == FIGURE else _table(table, dataset, scale)
    names = {row.name for row in made}
    assert all(row.beside in names for row in made if row.beside)
    return made


def _table(table: str, dataset: str, scale: str) -> tuple[Row, ...]:
    left_out = LEFT_OUT.get(table, set()) if scale == "small" else set()
    network = _network(dataset, scale)
    return tuple(
        Row(table, name, cells.label, network(cells, table), cells, _beside(table, name))
        for name, cells in zip(NAMES[table], CELLS[table], strict=True)
        if name not in left_out
    )


def _beside(table: str, name: str) -> str | None:
    other = BESIDE[table] if table in BESIDE else f"{name.partition('_')[0]}_baseline"
    return None if name == other else other


def _widths(dataset: str, scale: str) -> tuple[Row, ...]:
    """The networks of Table 1 at several widths: ResNet-50, or ResNet-26 where the images are small."""
    network, made = _network(dataset, scale), []
    of_fifty = {name.partition("_")[2]: cells for name, cells in zip(NAMES["1"], CELLS["1"], strict=True)}
    for width in WIDTHS[scale]:
        for kind, cells in of_fifty.items():
            if scale == "small" and kind == "convstem":
                continue
            name = f"w{round(1000 * width):04d}_{kind}"
            model = {**network(cells, FIGURE), "width": width}
            label = f"{cells.label.partition(', ')[2]}, width {width:g}"
            made.append(Row(FIGURE, name, label, model, None, _beside(FIGURE, name)))
    return tuple(made)


def _network(dataset: str, scale: str) -> Callable[[Cells, str], Options]:
    """How a row of the paper becomes the model section of a config."""
    if dataset == "bccd":
        return _small_detector
    if dataset in ("imagenet", "coco"):
        return lambda cells, table: {"name": cells.model, **cells.options}
    if scale == "full":
        return _full_of_small_images
    return lambda cells, table: {
        **SMALL,
        **({"num_heads": 2} if dataset == "digits" or table == FIGURE else {}),
        **({"padding": "mask"} if dataset == "digits" else {"stem_activation": False}),
        "groups": VARIANTS[cells.model]["groups"],
        **cells.options,
    }


def _small_detector(cells: Cells, table: str) -> Options:
    name = cells.model.replace("resnet50", "resnet26")
    return {
        "name": name,
        **DETECTOR,
        **({"head_shortcuts": True} if name.endswith("_attnheads") else {}),
    }


def _full_of_small_images(cells: Cells, table: str) -> Options:
    variant = VARIANTS[cells.model]
    depth = _depth(cells.model) if table == "1" else 26
    kind = "resnet{}" if variant["groups"] == "cccc" else "sasa_resnet{}"
    if variant["groups"] != "cccc" and variant["stem"] == "conv":
        kind += "_convstem"
    model: Options = {"name": kind.format(depth)}
    if variant["groups"] not in ("aaaa", "cccc"):
        model["groups"] = variant["groups"]
    stem = {"stem_block": 2} if table == "7" else {"stem": SMALL_STEMS[variant["stem"]]}
    return {**model, **stem, **cells.options}


def _depth(model: str) -> int:
    return int(model.partition("resnet")[2][:2])
