"""The model card of a network on the Hugging Face Hub: description, classes, figures and use."""

from typing import Any, NamedTuple

from sasa.models.resnet import ResNet
from sasa.models.retinanet import RetinaNet

CARD_NAME = "README.md"
MOST_LABELS = 100  # on the card; config.json has all
FRONT_MATTER = """---
library_name: sasa
pipeline_tag: {task}
tags:
- sasa
- self-attention
---
"""


class Figures(NamedTuple):
    """Measured figures of a network: a sentence on how they were measured, and (name, value) rows."""

    heading: str
    rows: list[tuple[str, object]]


def model_card(network: ResNet | RetinaNet, repo_id: str, figures: Figures | None = None) -> str:
    """Return the model card in Markdown.

    Args:
        network: with class names in `metadata["labels"]`, if it has any.
        repo_id: OWNER/NAME on the Hub.
        figures: the section of measured figures; None for no such section.
    """
    parts = [
        FRONT_MATTER.format(task="object-detection" if isinstance(network, RetinaNet) else "image-classification")
        + f"# {repo_id.partition('/')[2]}",
        _description(network),
        _labels(network.metadata.get("labels")),
        _figures(figures),
        _use(repo_id, "detect predict" if isinstance(network, RetinaNet) else "predict"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _description(network: ResNet | RetinaNet) -> str:
    parameters = sum(p.numel() for p in network.parameters())
    if isinstance(network, RetinaNet):
        own, config = network.config, network.config.backbone
        what, where = "An object detector", f"pyramid of {own.pyramid}, heads of {own.heads}, in its backbone "
    else:
        config, what, where = network.config, "An image classifier", ""
    attention = sum(letter == "a" for letter in str(config.groups))
    return (
        f"{what} of the library sasa: `{network.name}`, {parameters / 1e6:.2f} million parameters, "
        f"{network.num_classes} classes, {where}{attention} of {len(config.groups)} groups with local self-attention "
        f"({config.num_heads} heads, windows of {config.kernel_size} x {config.kernel_size}), after Ramachandran et "
        "al., *Stand-Alone Self-Attention in Vision Models*, NeurIPS 2019. All options are in config.json."
    )


def _labels(labels: Any) -> str:
    if not isinstance(labels, list) or not labels:
        return ""
    shown = ", ".join(f"`{str(label).replace('`', chr(39))}`" for label in labels[:MOST_LABELS])
    more = f", and {len(labels) - MOST_LABELS} more in config.json" if len(labels) > MOST_LABELS else ""
    return f"## Classes\n\n{shown}{more}"


def _figures(figures: Figures | None) -> str:
    if figures is None or not figures.rows:
        return ""
    rows = [f"| {name} | {value} |" for name, value in figures.rows]
    return "\n".join(["## Figures", "", figures.heading, "", "| | |", "| --- | ---: |", *rows])


def _use(repo_id: str, command: str) -> str:
    return f"""## Use

```bash
pip install 'sasa[train,hub]'
sasa {command} IMAGES --model hf:{repo_id}
```

```python
import sasa

model = sasa.create_model("hf:{repo_id}").eval()
labels, preprocessing = model.metadata["labels"], model.metadata["preprocessing"]
```"""
