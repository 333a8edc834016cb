"""Every config: read, built and stepped, on the digits in place of its own images.

Those that the generator writes are built at their full size in tests/reproduce/test_documents.py.
"""

from pathlib import Path

import pytest
import torch

from sasa.tasks.classification.config import TrainConfig, resolve
from sasa.tasks.train import dry_run

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
CONFIGS = [name for name in DOCUMENTS if not name.startswith(("configs/coco/", "configs/bccd/"))]
HEADER = ("Question:", "Hardware:", "Command:", "Measured:")
ON_DIGITS = [("data.source", "digits"), ("data.limit", 64), ("recipe.batch_size", 8), ("run.accelerator", "cpu")]
# Full networks on full images would take an hour here; what differs between configs stays as it is.
REDUCED = [*ON_DIGITS, ("recipe.accumulate", 1), ("data.image_size", 16), ("data.workers", 0), ("model.width", 0.25)]


def path_of(name):
    return str(ROOT / name) if name in CONFIGS else name


def reduced(name):
    """Whether the config has to be made smaller to be stepped here."""
    return TrainConfig.read(path_of(name)).model.get("width", 1.0) > 0.4


def distinct():
    """Configs whose network and recipe no config before has: rows of several tables share their network."""
    seen, names = set(), []
    for name in [*TrainConfig.recipe_names(), *CONFIGS]:
        config = resolve(path_of(name), REDUCED if reduced(name) else ON_DIGITS)
        key = (str(sorted(config.model.items())), str(config.recipe), str(config.data))
        if key not in seen:
            seen.add(key)
            names.append(name)
    return names


@pytest.mark.parametrize("name", distinct())
def test_every_config_is_built_and_stepped(name):
    config = resolve(path_of(name), REDUCED if reduced(name) else ON_DIGITS)
    report = dry_run(config)
    assert report["steps"] == 8 * TrainConfig.read(path_of(name)).recipe.epochs
    assert report["classes"] == 10
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_config_is_a_document(name):
    text = (ROOT / name).read_text()
    for word in HEADER:
        assert f"# {word}" in text
