"""Every recipe of the package and every row of a table: its settings, its network, and a few steps."""

import pytest
import torch

from sasa.counting.paper_cells import CELLS
from sasa.models import create_model
from sasa.reproduce.plan import Plan
from sasa.reproduce.rows import tables_of
from sasa.reproduce.setups import FIGURE, SETUPS
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.detection.config import DetectionConfig
from sasa.tasks.train import dry_run

RECIPES = [(kind, name) for kind in (TrainConfig, DetectionConfig) for name in kind.recipe_names()]
CLASSIFICATION = [(dataset, scale) for (dataset, scale), setup in SETUPS.items() if setup.config is TrainConfig]


def network(config):
    options = dict(config.model)
    with torch.device("meta"):  # at full size, without memory
        return create_model(options.pop("name"), **options)


@pytest.mark.parametrize(("kind", "name"), RECIPES)
def test_every_recipe_is_a_config_with_a_network(kind, name):
    config = kind.read_recipe(name)
    config.check()
    assert kind.read(name) == kind.from_dict(config.to_dict()) == config
    assert sum(p.numel() for p in network(config).parameters()) > 1e5
    assert config.recipe.warmup_epochs < config.recipe.epochs <= 150
    assert config.recipe.batch_size % config.recipe.accumulate == 0
    assert (0 < config.recipe.learning_rate < 0.01) == (config.recipe.optimizer == "adamw")


def test_every_recipe_of_a_table_is_that_of_one_of_its_rows():
    for (dataset, scale), setup in SETUPS.items():
        recipe, table = setup.config.read_recipe(setup.recipe), "1" if setup.config is TrainConfig else "2"
        plan = Plan(table, dataset, scale)
        configs = [plan.config(row, 0, recipe.data.source) for row in plan.rows]
        config = configs[[network(config).config for config in configs].index(network(recipe).config)]
        config.model = recipe.model
        assert config == recipe
        assert recipe.data.source == dataset


def test_the_rows_are_the_papers_on_imagenet_and_coco():
    for table, cells in CELLS.items():
        plan = Plan(table, "coco" if table == "2" else "imagenet", "full")
        assert [row.cells for row in plan.rows] == list(cells)
        assert [row.model for row in plan.rows] == [{"name": cell.model, **cell.options} for cell in cells]


def test_the_recipe_of_imagenet_is_that_of_the_appendix():
    recipe = TrainConfig.read_recipe("imagenet").recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.warmup_epochs) == (130, 4096, 1.6, 10)
    assert (recipe.optimizer, recipe.momentum, recipe.accumulate) == ("sgd", 0.9, 8)
    assert (recipe.batch_norm_momentum, recipe.ema_decay) == (1e-4, 0.9999)


def test_the_recipe_of_coco_is_that_of_the_appendix():
    config = DetectionConfig.read_recipe("coco")
    recipe = config.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.warmup_epochs) == (150, 64, 0.12, 1)
    assert (config.data.image_size, config.data.flip, recipe.optimizer) == (640, True, "sgd")


def on_digits(config):
    """The config on the built-in digits; full networks on full images would take an hour here, so they are smaller."""
    changes = [("data.source", "digits"), ("data.limit", 64), ("recipe.batch_size", 8), ("run.accelerator", "cpu")]
    if config.model.get("width", 1.0) > 0.4:
        changes += [("recipe.accumulate", 1), ("data.image_size", 16), ("data.workers", 0), ("model.width", 0.25)]
    return config.apply(changes)


def distinct():
    """Configs of recipes and rows by name, each network with each recipe once: rows of several tables share theirs."""
    configs = {name: TrainConfig.read_recipe(name) for name in TrainConfig.recipe_names()}
    for dataset, scale in CLASSIFICATION:
        for table in tables_of(dataset):
            plan = Plan(table, dataset, scale)
            configs |= {f"{dataset}-{scale}-{table}-{row.name}": plan.config(row, 0, dataset) for row in plan.rows}
    found = {}
    for name, config in configs.items():
        found.setdefault(str(on_digits(config).to_dict()), (name, config))
    return found.values()


@pytest.mark.parametrize("config", [pytest.param(config, id=name) for name, config in distinct()])
def test_every_network_is_built_and_stepped_with_its_recipe(config):
    report = dry_run(config)
    assert report["steps"] == 8 * config.recipe.epochs
    assert report["classes"] == 10
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("dataset", "scale"), SETUPS)
def test_every_row_can_be_built_at_full_size(dataset, scale):
    for table in tables_of(dataset):
        plan = Plan(table, dataset, scale)
        sizes = [sum(p.numel() for p in network(plan.config(row, 0, dataset)).parameters()) for row in plan.rows]
        assert min(sizes) > (1e5 if table == FIGURE else 3e5)
