"""Setups for running the paper's tables on each data set: the recipe, and the networks used for the paper's.

A setup is one entry of `SETUPS` and one YAML file in the recipes of its task. To add a data set, add both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sasa.counting.paper_cells import Cells
from sasa.errors import UsageError
from sasa.models.config import VARIANTS
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.detection.config import DetectionConfig
from sasa.training.settings import Config

Options = dict[str, Any]  # the model section of a config: `name`, and options of `sasa.create_model`

FIGURE = "figure5"


def papers_network(cells: Cells, table: str) -> Options:
    """Return the paper's own network."""
    return {"name": cells.model, **cells.options}


def cifar10_network(cells: Cells, table: str) -> Options:
    """The network of the paper for 32 x 32 images, with ResNet-26 in place of ResNet-50 outside of Table 1.

    The paper's stems reduce an image four times, which leaves 1 x 1 feature maps in the last group. So all networks
    see 32 x 32 in the first group: behind a 3 x 3 convolution in place of the convolutional stem, and behind attention
    in place of the attention stem. Only Table 7, which varies that stem, keeps it, with 2 x 2 blocks. Three seeds of
    ResNet-26 cost less than two of ResNet-50.
    """
    variant = VARIANTS[cells.model]
    depth = int(cells.model.partition("resnet")[2][:2]) if table == "1" else 26
    kind = "resnet{}" if variant["groups"] == "cccc" else "sasa_resnet{}"
    if variant["groups"] != "cccc" and variant["stem"] == "conv":
        kind += "_convstem"
    model: Options = {"name": kind.format(depth)}
    if variant["groups"] not in ("aaaa", "cccc"):
        model["groups"] = variant["groups"]
    stem = {"stem_block": 2} if table == "7" else {"stem": f"small_{variant['stem']}"}
    return {**model, **stem, **cells.options}


def small_network(cells: Cells, table: str, **options: Any) -> Options:
    """ResNet-26 of a quarter of the width behind the attention stem with 2 x 2 blocks.

    All rows have the same stem, so that an attention network and its convolutional twin see the same feature maps, of
    a quarter of the pixels. An option that a table varies, such as `position`, therefore applies to the stem as well.
    The narrowest networks of Figure 5 have room for two heads only.
    """
    if table == FIGURE:
        options["num_heads"] = 2
    small = {"name": "sasa_resnet26", "width": 0.25, "stem_block": 2, "groups": VARIANTS[cells.model]["groups"]}
    return {**small, **options, **cells.options}


def bccd_network(cells: Cells, table: str) -> Options:
    """The paper's detector with ResNet-26, a quarter of the width, narrow windows, shortcuts in attention heads."""
    model: Options = {"name": cells.model.replace("resnet50", "resnet26"), "width": 0.25}
    model |= {"num_heads": 4, "kernel_size": 3}  # better on validation than two heads and 7 x 7 (docs/choices.md)
    if model["name"].endswith("_attnheads"):
        model["head_shortcuts"] = True
    return model


@dataclass(frozen=True)
class Setup:
    """One data set at one scale.

    Args:
        recipe: the name of the YAML file of the package with sections data, recipe and run; its section model is that
            of one row, and the others replace it.
        network: from a row of the paper and the name of its table to the model section of a config.
        differs: how the networks differ from the paper's; printed with every table.
        hardware: machine that the recipe is meant for.
        classes: that FLOPS and parameters are counted for.
        widths: of Figure 5; ours, because the figure prints no numbers.
        config: the class of its configs, which determines the task.
    """

    recipe: str
    network: Callable[[Cells, str], Options]
    differs: str
    hardware: str
    classes: int
    widths: tuple[float, ...] = ()
    config: type[Config] = TrainConfig


WIDE, NARROW = (0.5, 0.75, 1.0, 1.25), (0.125, 0.25, 0.375)
TWO_CORES = "2 CPU cores"

SETUPS = {  # the first scale of a data set is the default
    ("imagenet", "full"): Setup(
        "imagenet", papers_network, "the paper's.", "one machine with 8 GPUs, or 8 such machines", 1000, WIDE
    ),
    ("cifar10", "full"): Setup(
        "cifar10",
        cifar10_network,
        "first group at 32 x 32 behind a 3 x 3 convolution or attention in place of the paper's stems; outside of "
        "Table 1 ResNet-26 in place of ResNet-50; in Table 7 the paper's stem with 2 x 2 blocks.",
        "one GPU",
        10,
        WIDE,
    ),
    ("cifar10", "small"): Setup(
        "cifar10_small",
        partial(small_network, stem_activation=False),  # with eight heads, better on validation (docs/choices.md)
        "ResNet-26 of a quarter of the width, the attention stem with 2 x 2 blocks, without ReLU, in all of them.",
        TWO_CORES,
        10,
        NARROW,
    ),
    ("digits", "small"): Setup(
        "digits_small",
        partial(small_network, num_heads=2, padding="mask"),  # the last feature maps are 2 x 2 and 1 x 1
        "ResNet-26 of a quarter of the width, the attention stem with 2 x 2 blocks in all of them.",
        TWO_CORES,
        10,
        NARROW,
    ),
    ("coco", "full"): Setup(
        "coco",
        papers_network,
        "the paper's.",
        "one machine with 8 GPUs, 8 images on each",
        90,  # as the paper counts; COCO's files have 80
        config=DetectionConfig,
    ),
    ("bccd", "small"): Setup(
        "bccd",
        bccd_network,
        "RetinaNet with ResNet-26 in place of ResNet-50, a quarter of the width, four heads, 3 x 3 windows; a "
        "shortcut around each layer of the attention heads, which the paper's do not have.",
        TWO_CORES,
        3,
        config=DetectionConfig,
    ),
}
DATASETS = tuple(dict.fromkeys(dataset for dataset, _ in SETUPS))
DETECTION_DATASETS = tuple(
    dict.fromkeys(name for (name, _), setup in SETUPS.items() if setup.config is DetectionConfig)
)


def choose_scale(dataset: str, scale: str | None) -> str:
    """Return the requested scale, or by default the first of the data set.

    Raises:
        UsageError: an unknown data set, or a scale that it does not have.
    """
    if dataset not in DATASETS:
        raise UsageError(f"--dataset must be {', '.join(DATASETS)}; got {dataset!r}")
    scales = [name for of, name in SETUPS if of == dataset]
    if scale is not None and scale not in scales:
        raise UsageError(f"--scale of {dataset} must be {' or '.join(scales)}, got {scale!r}")
    return scale or scales[0]
