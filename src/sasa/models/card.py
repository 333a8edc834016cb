"""The model card that goes to the Hugging Face Hub with a network: what it is, its classes, its figures, its use."""

import json
from pathlib import Path
from typing import Any

from sasa.models.resnet import ResNet
from sasa.models.retinanet import RetinaNet

CARD_NAME = "README.md"
MOST_LABELS = 100  # the rest is in config.json
FRONT = """---
library_name: sasa
pipeline_tag: {task}
tags:
- sasa
- self-attention
---
"""
FIGURES = {
    "held_out_top1": "top-1 accuracy",
    "held_out_top5": "top-5 accuracy",
    "held_out_map": "mean average precision (50:95)",
    "held_out_map50": "mean average precision (50)",
    "held_out_loss": "cross-entropy",
    "held_out_pictures": "held-out images",
    "training_pictures": "training images",
    "epochs": "epochs",
}


def model_card(network: ResNet | RetinaNet, directory: Path, repo_id: str) -> str:
    """Markdown from the network, its metadata and, where the directory is a run, summary.json."""
    parts = [
        FRONT.format(task="object-detection" if isinstance(network, RetinaNet) else "image-classification")
        + f"# {repo_id.partition('/')[2]}",
        _description(network),
        _labels(network.metadata.get("labels")),
        _figures(read_summary(directory)),
        _use(repo_id, "detect predict" if isinstance(network, RetinaNet) else "predict"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def read_summary(directory: Path) -> dict[str, Any]:
    """summary.json of a run; nothing where there is none, or one that cannot be read: a card does without."""
    try:
        values = json.loads((directory / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


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


def _figures(summary: dict[str, Any]) -> str:
    rows = [f"| {text} | {summary[name]} |" for name, text in FIGURES.items() if name in summary]
    if not rows:
        return ""
    # The name alone: where the images lie on somebody's disk is nobody else's business.
    data = Path(str(summary.get("data", ""))).name
    heading = "Measured by `sasa train` on held-out images" + (f" of `{data}`." if data else ".")
    return "\n".join(["## Figures", "", heading, "", "| | |", "| --- | ---: |", *rows])


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
