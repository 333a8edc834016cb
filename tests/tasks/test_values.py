"""Every setting of both tasks with a value that no setting of its type may have: a sentence that names the setting."""

import dataclasses

import pytest

from sasa.errors import SasaError
from sasa.tasks.classification.config import TrainConfig
from sasa.tasks.detection.config import DetectionConfig
from sasa.training.settings import parse_setting

CONFIGS = (TrainConfig, DetectionConfig)
SECTIONS = ("data", "recipe", "run")


def settings_of(*types):
    """(config, name of the setting) for all settings of these types."""
    return [
        pytest.param(config, f"{section}.{field.name}", id=f"{config.TASK} {section}.{field.name}")
        for config in CONFIGS
        for section in SECTIONS
        for field in dataclasses.fields(getattr(config(), section))
        if field.type in types
    ]


def check_as(config_class, how, key, text):
    """Check the defaults with one value, written in YAML: in a file, or as --set KEY=VALUE."""
    section, _, name = key.partition(".")
    if how == "--set":
        config = config_class().apply([parse_setting(f"{key}={text}")])
    else:
        how.write_text(f"task: {config_class.TASK}\n{section}:\n  {name}: {text}\n")
        config = config_class.read(str(how))
    config.check()


@pytest.fixture(params=["--set", "file"])
def how(request, tmp_path):
    return tmp_path / "config.yaml" if request.param == "file" else request.param


def test_the_types_of_all_settings_are_tested_here():
    types = {
        field.type
        for config in CONFIGS
        for section in SECTIONS
        for field in dataclasses.fields(getattr(config(), section))
    }
    assert types == {float, float | str, list[float], int, bool, str}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".nan", "nan"),
        (".inf", "inf"),
        ("-.inf", "-inf"),
        ("'nan'", "nan"),
        ("inf", "inf"),
        ("1e999", "inf"),
        ("-1", "-1"),
    ],
)
@pytest.mark.parametrize(("config", "key"), settings_of(float, float | str))
def test_numbers_that_are_not_finite_or_negative(config, key, how, text, shown):
    with pytest.raises(SasaError, match=rf"\b{key.partition('.')[2]}\b.* \(?{shown}"):
        check_as(config, how, key, text)


@pytest.mark.parametrize("text", ["true", "[1.0]", "'fast'", "", "2026-11-28"])
@pytest.mark.parametrize(("config", "key"), settings_of(float, float | str))
def test_values_that_are_not_numbers(config, key, how, text):
    with pytest.raises(SasaError, match=rf"^{key} must be a number( or auto)?, got "):
        check_as(config, how, key, text)


@pytest.mark.parametrize("text", ["'5'", "5.0", "true", ".nan", "1e2", ""])
@pytest.mark.parametrize(("config", "key"), settings_of(int))
def test_values_that_are_not_whole_numbers(config, key, how, text):
    with pytest.raises(SasaError, match=rf"^{key} must be a whole number, got "):
        check_as(config, how, key, text)


@pytest.mark.parametrize("text", ["1", "0", "1.0", "'true'", "'no'", ""])
@pytest.mark.parametrize(("config", "key"), settings_of(bool))
def test_values_that_are_not_true_or_false(config, key, how, text):
    with pytest.raises(SasaError, match=rf"^{key} must be true or false, got "):
        check_as(config, how, key, text)


@pytest.mark.parametrize("text", ["1", "true", ".nan", "[a]", ""])
@pytest.mark.parametrize(("config", "key"), settings_of(str))
def test_values_that_are_not_text(config, key, how, text):
    with pytest.raises(SasaError, match=rf"^{key} must be text, got "):
        check_as(config, how, key, text)


@pytest.mark.parametrize("text", ["0.5", "[a, 1, 1]", "[true, 1, 1]", "'0.5'", "[[1], 1, 1]"])
@pytest.mark.parametrize(("config", "key"), settings_of(list[float]))
def test_values_that_are_not_lists_of_numbers(config, key, how, text):
    with pytest.raises(SasaError, match=rf"^{key} must be a list of numbers, got "):
        check_as(config, how, key, text)


@pytest.mark.parametrize("text", ["[]", "[0.5]", "[0.5, 0.5]", "[0.5, 0.5, 0.5, 0.5]"])
@pytest.mark.parametrize(("config", "key"), settings_of(list[float]))
def test_lists_of_another_length_than_the_channels(config, key, how, text):
    with pytest.raises(SasaError, match=rf"\b{key.partition('.')[2]} \(.*\) .*must have 3 values, one a channel"):
        check_as(config, how, key, text)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(("config", "key"), settings_of(list[float]))
@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "'nan'", "1e40", "1e999"])
def test_means_and_deviations_that_are_not_finite(config, key, how, text, place):
    values = ["0.5"] * 3
    values[place] = text
    with pytest.raises(SasaError, match=rf"\b{key.partition('.')[2]} must be .* to 1e\+18, got \(.*(nan|inf|1e\+40)"):
        check_as(config, how, key, f"[{', '.join(values)}]")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("text", ["0", "0.0", "-0.2", "1e-40"])
def test_deviations_that_are_not_positive(config, how, text):
    with pytest.raises(SasaError, match=r"\bstd must be 1e-18 to 1e\+18, got \(0\.2, .*, 0\.3\)"):
        check_as(config, how, "data.std", f"[0.2, {text}, 0.3]")


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "'4'", "true", "0", "-1"])
@pytest.mark.parametrize("name", ["width", "anchor_scale"])
def test_numbers_of_the_network(how, name, text):
    from sasa.models import create_model

    config = DetectionConfig().apply([parse_setting(f"model.{name}={text}")])
    options = {key: value for key, value in config.model.items() if key != "name"}
    with pytest.raises(SasaError, match=rf"^{name} must be a (positive )?number\b.*, got "):
        create_model(config.model["name"], **options)
