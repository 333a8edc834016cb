"""Configs: round trips, settings by dotted name, and refusal of YAML that is not plain."""

import pytest

from sasa.errors import UsageError
from sasa.tasks.classification.config import TrainConfig, resolve
from sasa.tasks.detection.config import DetectionConfig
from sasa.training.settings import parse_setting


def test_the_kinds_of_configs_are_not_taken_for_each_other(tmp_path):
    (tmp_path / "boxes.yaml").write_text(DetectionConfig.read("small").to_yaml())
    (tmp_path / "classes.yaml").write_text(TrainConfig.read("small").to_yaml())
    with pytest.raises(UsageError, match="this is a config of 'detection', and sasa train is for 'classification'"):
        TrainConfig.read(str(tmp_path / "boxes.yaml"))
    with pytest.raises(UsageError, match="this is a config of 'classification', and sasa detect train is for"):
        DetectionConfig.read(str(tmp_path / "classes.yaml"))


def test_a_recipe_is_read_whatever_the_current_directory_holds(tmp_path, monkeypatch):
    (tmp_path / "imagenet").write_text("- 1")
    monkeypatch.chdir(tmp_path)
    assert TrainConfig.read_recipe("imagenet").recipe.epochs == 130
    with pytest.raises(UsageError, match="imagenet must hold sections"):
        TrainConfig.read("imagenet")


def test_yaml_round_trip(tmp_path):
    config = resolve(None, [("model.width", 0.5), ("recipe.epochs", 3), ("data.mean", [1, 2, 3])])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert TrainConfig.read(str(tmp_path / "c.yaml")) == config
    assert config.model["width"] == 0.5
    assert config.data.mean == [1.0, 2.0, 3.0]


def test_own_images_start_from_the_general_defaults_and_digits_from_their_recipe():
    assert resolve(None, [("data.source", "photos")]).data.image_size == 224
    assert resolve(None, []).data.image_size == 24


def test_a_saved_network_drops_the_model_options_of_the_recipe_and_a_named_one_keeps_them():
    assert resolve("small", [("model.name", "sasa_resnet38")]).model["width"] == 0.25
    changes = [("model.name", "runs/mine"), ("model.num_classes", 3)]
    assert resolve("small", changes).model == {"name": "runs/mine", "num_classes": 3}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [("recipe.epochs=5", "recipe.epochs", 5), ("data.flip=false", "data.flip", False), ("a=[1, 2]", "a", [1, 2])],
)
def test_settings_are_read_as_yaml(text, key, value):
    assert parse_setting(text) == (key, value)


def test_numbers_in_scientific_notation_are_numbers():
    config = TrainConfig()
    config.set("recipe.weight_decay", "1e-4")
    assert config.recipe.weight_decay == 1e-4


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("recipe.epoch", 3, "'recipe.epoch' is not a setting; did you mean 'recipe.epochs'"),
        ("speed", 3, "'speed' is not a setting"),
        ("recipe.epochs", "many", "recipe.epochs must be a whole number, got 'many'"),
        ("data.flip", 1, "data.flip must be true or false, got 1"),
        ("data.mean", ["a"], "data.mean must be a list of numbers"),
        ("data.source", 3, "data.source must be text, got 3"),
        ("recipe.learning_rate", "fast", "recipe.learning_rate must be a number, got 'fast'"),
        ("recipe.ema_decay", "always", "recipe.ema_decay must be a number or auto, got 'always'"),
    ],
)
def test_wrong_settings_are_errors(key, value, sentence):
    with pytest.raises(UsageError, match=sentence):
        TrainConfig().set(key, value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("recipe.epochs", 0, "recipe.epochs must be at least 1, got 0"),
        ("recipe.learning_rate", 1e99, r"recipe.learning_rate must be at least 0 and below 1e\+38, got 1e\+99"),
        ("run.seed", 2**63, r"run.seed must be below 2\^63, got 9223372036854775808"),
        ("recipe.accumulate", 0, "recipe.accumulate must be at least 1, got 0"),
        ("data.workers", -1, "data.workers must be at least 0, got -1"),
        ("data.workers", 4096, "data.workers must be at least 0 and below 4096, got 4096"),
        ("data.image_size", 10**20, "data.image_size must be at least 1 and below 65536, got 1000"),
        ("recipe.ema_decay", 2.0, "recipe.ema_decay must be 0 to 1 or auto, got 2.0"),
        ("recipe.optimizer", "adam", "recipe.optimizer must be sgd or adamw, got 'adam'"),
    ],
)
def test_impossible_values_are_errors(key, value, sentence):
    config = TrainConfig()
    config.set(key, value)
    with pytest.raises(UsageError, match=sentence):
        config.check()


def test_averages_are_numbers_or_automatic():
    config = TrainConfig()
    config.set("recipe.ema_decay", "0.99")
    assert config.recipe.ema_decay == 0.99
    config.set("recipe.ema_decay", "auto")
    assert config.recipe.ema_decay == "auto"


def test_yaml_tags_are_refused_and_not_run(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "c.yaml").write_text(f"run: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(UsageError, match="is not plain YAML"):
        TrainConfig.read(str(tmp_path / "c.yaml"))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"- 1", "must hold sections"),
        (b"", "must hold sections"),
        (b"a: [", "is not plain YAML"),
        (b"\x91\xde\x00\xff", "is not plain YAML"),
        (b"recipe: {epochs: 1}\nrecipe: {batch_size: 2}", "is not plain YAML: the key 'recipe' occurs twice"),
    ],
)
def test_other_yaml_is_refused(tmp_path, content, sentence):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        TrainConfig.read(str(tmp_path / "c.yaml"))


def test_an_unknown_config():
    with pytest.raises(UsageError, match=r"'nothing' is neither a file nor a recipe of the package .*digits"):
        TrainConfig.read("nothing")
    with pytest.raises(UsageError, match=r"--set takes key=value, got 'x'"):
        parse_setting("x")
