"""Every config: read, built whole and stepped, on the digits in place of its own pictures."""

from pathlib import Path

import pytest
import torch

from sasa.training.config import read_config, recipe_names, resolve
from sasa.training.train import dry_run

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
HEADER = ("Question:", "Hardware:", "Command:", "Measured:")


@pytest.mark.parametrize("name", [*recipe_names(), *CONFIGS])
def test_every_config_is_built_and_stepped(name):
    path = str(ROOT / name) if name in CONFIGS else name
    changes = [("data.source", "digits"), ("data.limit", 64), ("recipe.batch_size", 8), ("run.accelerator", "cpu")]
    config = resolve(path, changes)
    report = dry_run(config)
    assert report["steps"] == 8 * read_config(path).recipe.epochs
    assert report["classes"] == 10
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_a_document(name):
    text = (ROOT / name).read_text()
    for word in HEADER:
        assert f"# {word}" in text
