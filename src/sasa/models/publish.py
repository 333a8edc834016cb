"""Publish a network on the Hugging Face Hub with a model card: description, classes, figures and use."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from sasa.errors import SasaError
from sasa.models.create import load_pretrained
from sasa.models.hub import CARD_NAME, FILES, PREFIX, check_name, library, one_sentence
from sasa.models.resnet import ResNet
from sasa.models.retinanet import RetinaNet
from sasa.models.weights import CONFIG_NAME, WEIGHTS_NAME
from sasa.nn.conversion import count_parameters

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


def upload(directory: str | Path, repo_id: str, private: bool = False, figures: Figures | None = None) -> str:
    """Publish the network that `save_pretrained` or training wrote; return the address of its page.

    A README.md in the directory is uploaded as it is; without one a model card is written.

    Args:
        directory: with model.safetensors and config.json, which must fit each other.
        repo_id: OWNER/NAME; created if missing.
        private: whether only the owner may see it. A repository that is already public is refused.
        figures: of the network, for the model card.

    Raises:
        ArgumentError: repo_id has another form.
        SasaError: the directory holds no complete network; the extra is missing; the Hub does not answer or refuses.
    """
    check_name(repo_id)
    directory, api = Path(directory), library().HfApi(library_name="sasa")
    network = load_pretrained(directory)
    with tempfile.TemporaryDirectory() as staged:
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            shutil.copyfile(directory / name, Path(staged) / name)
        own = directory / CARD_NAME
        card = own.read_text(encoding="utf-8") if own.is_file() else model_card(network, repo_id, figures)
        (Path(staged) / CARD_NAME).write_text(card, encoding="utf-8")
        with one_sentence("upload", repo_id):
            address = str(api.create_repo(repo_id, repo_type="model", private=private or None, exist_ok=True))
            if private and not api.model_info(repo_id).private:
                raise SasaError(f"{PREFIX}{repo_id} exists already and is public: nothing was uploaded")
            api.upload_folder(
                repo_id=repo_id,
                repo_type="model",
                folder_path=staged,
                allow_patterns=FILES,
                commit_message=f"{network.name}, saved by sasa",
            )
    return address


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
    parameters = count_parameters(network)
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
