"""The cells of the paper's tables, and the network of each row.

FLOPs in billions (a multiply and an add are two), parameters in millions, accuracy on ImageNet in %, one decimal
each. Tables 3 and 5 have accuracy on the validation split (4 % of the training set), the others on the test set.
Table 2 is detection: mean average precision on COCO, and FLOPs of 640 x 640 pixels.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cells:
    """One row of a table in the paper; its network is `create_model(model, **options)`.

    Args:
        name: short, for `sasa reproduce --row` and for directories.
        label: the row's name in the paper.
        model: a name of `sasa.list_models()`.
        flops: billions.
        parameters: millions; None if the table has no such column.
        top1: accuracy in %; None in Table 2.
        options: arguments of `create_model`.
        ap: Table 2: mean average precision in %, at IoU 50:95, 50, 75, and of small, medium, large boxes.
    """

    name: str
    label: str
    model: str
    flops: float
    parameters: float | None
    top1: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    ap: tuple[float, ...] = ()


CONVSTEM, FULL = "sasa_resnet50_convstem", "sasa_resnet50"

SIDES = {"2": 640}  # of the images, in pixels
SIDE = 224  # of the other tables

TITLES = {
    "1": "ImageNet classification, by depth",
    "2": "COCO detection, RetinaNet with ResNet-50: heads and backbone",
    "3": "Convolution or attention by stage (ResNet-50, convolutional stem)",
    "4": "Spatial extent k (ResNet-50, convolutional stem)",
    "5": "Positional encoding (ResNet-50, convolutional stem)",
    "6": "Terms of the logits (ResNet-50, convolutional stem)",
    "7": "Form of the attention stem (ResNet-50, full attention)",
}

TABLE_2 = (
    Cells("conv_baseline", "conv heads, baseline", "retinanet_resnet50", 182, 33.4,
          ap=(36.5, 54.3, 39.0, 18.3, 40.6, 51.7)),
    Cells("conv_convstem", "conv heads, conv-stem + attention", f"retinanet_{CONVSTEM}", 173, 25.9,
          ap=(36.8, 54.6, 39.3, 18.4, 41.1, 51.7)),
    Cells("conv_full", "conv heads, full attention", f"retinanet_{FULL}", 173, 25.9,
          ap=(36.2, 54.0, 38.7, 17.5, 40.3, 51.7)),
    Cells("attention_convstem", "attention heads, conv-stem + attention", f"retinanet_{CONVSTEM}_attnheads",
          111, 22.0, ap=(36.6, 54.3, 39.1, 19.0, 40.7, 51.1)),
    Cells("attention_full", "attention heads, full attention", f"retinanet_{FULL}_attnheads",
          110, 22.0, ap=(36.6, 54.5, 39.2, 18.5, 40.6, 51.6)),
)  # fmt: skip

CELLS: dict[str, tuple[Cells, ...]] = {
    "1": (
        Cells("r26_baseline", "ResNet-26, baseline", "resnet26", 4.7, 13.7, 74.5),
        Cells("r26_convstem", "ResNet-26, conv-stem + attention", "sasa_resnet26_convstem", 4.5, 10.3, 75.8),
        Cells("r26_full", "ResNet-26, full attention", "sasa_resnet26", 4.7, 10.3, 74.8),
        Cells("r38_baseline", "ResNet-38, baseline", "resnet38", 6.5, 19.6, 76.2),
        Cells("r38_convstem", "ResNet-38, conv-stem + attention", "sasa_resnet38_convstem", 5.7, 14.1, 77.1),
        Cells("r38_full", "ResNet-38, full attention", "sasa_resnet38", 6.0, 14.1, 76.9),
        Cells("r50_baseline", "ResNet-50, baseline", "resnet50", 8.2, 25.6, 76.9),
        Cells("r50_convstem", "ResNet-50, conv-stem + attention", CONVSTEM, 7.0, 18.0, 77.4),
        Cells("r50_full", "ResNet-50, full attention", FULL, 7.2, 18.0, 77.6),
    ),
    "2": TABLE_2,
    "3": (
        Cells("a1234", "attention 1 2 3 4", CONVSTEM, 7.0, 18.0, 80.2),
        Cells("c1a234", "conv 1, attention 2 3 4", "sasa_resnet50_c1a234", 7.3, 18.1, 80.7),
        Cells("c12a34", "conv 1 2, attention 3 4", "sasa_resnet50_c12a34", 7.5, 18.5, 80.7),
        Cells("c123a4", "conv 1 2 3, attention 4", "sasa_resnet50_c123a4", 8.0, 20.8, 80.2),
        Cells("c1234", "conv 1 2 3 4", "resnet50", 8.2, 25.6, 79.5),
        Cells("c234a1", "conv 2 3 4, attention 1", "sasa_resnet50_c234a1", 7.9, 25.5, 79.7),
        Cells("c34a12", "conv 3 4, attention 1 2", "sasa_resnet50_c34a12", 7.8, 25.0, 79.6),
        Cells("c4a123", "conv 4, attention 1 2 3", "sasa_resnet50_c4a123", 7.2, 22.7, 79.9),
    ),
    "4": (
        Cells("k3", "k = 3", CONVSTEM, 6.6, None, 76.4, {"kernel_size": 3}),
        Cells("k5", "k = 5", CONVSTEM, 6.7, None, 77.2, {"kernel_size": 5}),
        Cells("k7", "k = 7", CONVSTEM, 7.0, None, 77.4),
        Cells("k9", "k = 9", CONVSTEM, 7.3, None, 77.7, {"kernel_size": 9}),
        Cells("k11", "k = 11", CONVSTEM, 7.7, None, 77.6, {"kernel_size": 11}),
    ),
    "5": (
        Cells("none", "none", CONVSTEM, 6.9, 18.0, 77.6, {"position": "none"}),
        Cells("absolute", "absolute", CONVSTEM, 6.9, 18.0, 78.2, {"position": "absolute"}),
        Cells("relative", "relative", CONVSTEM, 7.0, 18.0, 80.2),
    ),
    "6": (
        Cells("qr", "q.r", CONVSTEM, 6.1, 16.7, 76.9, {"content": False}),
        Cells("qk_qr", "q.k + q.r", CONVSTEM, 7.0, 18.0, 77.4),
    ),
    "7": (
        Cells("pointwise", "stand-alone attention", FULL, 7.1, None, 76.2, {"stem_values": "pointwise"}),
        Cells("convolution", "spatial convolution for values", FULL, 7.4, None, 77.2, {"stem_values": "convolution"}),
        Cells("mixture", "spatially-aware values", FULL, 7.2, None, 77.6),
    ),
}
