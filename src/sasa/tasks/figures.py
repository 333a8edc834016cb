"""Figures of a finished run for a model card, from its summary.json."""

import json
from pathlib import Path

from sasa.models.publish import Figures

NAMES = {
    "held_out_top1": "top-1 accuracy",
    "held_out_top5": "top-5 accuracy",
    "held_out_map": "mean average precision (50:95)",
    "held_out_map50": "mean average precision (50)",
    "held_out_loss": "cross-entropy",
    "held_out_pictures": "held-out images",
    "training_pictures": "training images",
    "epochs": "epochs",
}


def run_figures(directory: Path) -> Figures | None:
    """Return the figures in summary.json; None if it is missing or unreadable, since a card does not require them."""
    try:
        summary = json.loads((directory / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict):
        return None
    rows = [(text, summary[name]) for name, text in NAMES.items() if summary.get(name) is not None]
    data = Path(str(summary.get("data", ""))).name  # the name alone: the path is private
    return Figures("Measured by `sasa train` on held-out images" + (f" of `{data}`." if data else "."), rows)
