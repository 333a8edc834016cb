"""Tables by name, plans that agree with recorded runs, budgets, and statistics over pairs of seeds."""

import pytest

from sasa.durations import format_duration, parse_budget
from sasa.errors import ArgumentError, DataError, SasaError, UsageError
from sasa.reproduce.budget import RunCost, epochs_that_fit
from sasa.reproduce.plan import Plan, agree, load_plan, training_part
from sasa.reproduce.rows import rows, table_name, tables_of
from sasa.reproduce.scores import Mean, conclusion, mean, measure_of, paired
from sasa.reproduce.setups import SETUPS, choose_scale


@pytest.mark.parametrize(("text", "name"), [("4", "4"), ("Table 4", "4"), ("table7", "7"), ("Figure 5", "figure5")])
def test_tables_by_name(text, name):
    assert table_name(text) == name


@pytest.mark.parametrize("text", ["8", "figure", ""])
def test_unknown_tables(text):
    with pytest.raises(UsageError, match="to reproduce: choose one of 1, 2, 3, 4, 5, 6, 7, figure5"):
        table_name(text)


def test_every_row_has_a_name_of_its_own_and_a_row_beside():
    for dataset, scale in SETUPS:
        for table in tables_of(dataset):
            made = rows(table, dataset, scale)
            assert len({row.name for row in made}) == len(made) >= 2
            beside = {row.beside for row in made}
            assert beside - {None} <= {row.name for row in made if row.beside is None}


def test_twins_share_their_stem():
    for table in ("1", "3"):
        for row in rows(table, "cifar10", "small"):
            assert row.model["stem_block"] == 2
            assert "stem" not in row.model


def test_scales():
    assert choose_scale("imagenet", None) == "full"
    assert choose_scale("cifar10", "small") == "small"
    with pytest.raises(UsageError, match="--scale of imagenet must be full, got 'small'"):
        choose_scale("imagenet", "small")
    with pytest.raises(UsageError, match="--dataset must be imagenet, cifar10, digits, coco, bccd; got 'mnist'"):
        choose_scale("mnist", None)


def test_epochs_scale_the_warm_up():
    plan = Plan("4", "digits", "small", epochs=5)
    recipe = plan.config(plan.rows[0], 3, "digits").recipe
    assert (recipe.epochs, recipe.warmup_epochs) == (5, 0.5)


def test_options_that_a_table_varies_cannot_be_set():
    for key in ("model.kernel_size", "run.seed", "data.source"):
        with pytest.raises(UsageError, match=f"--set {key}"):
            Plan("4", "digits", "small", changes=[[key, 3]]).check()
    with pytest.raises(UsageError, match="is not a setting"):
        Plan("4", "digits", "small", changes=[["recipe.epoch", 3]]).check()
    with pytest.raises(ArgumentError, match="did you mean 'width'"):
        Plan("4", "digits", "small", changes=[["model.widht", 0.1]]).check()
    Plan("5", "digits", "small", changes=[["model.kernel_size", 3]]).check()


def test_tables_and_data_sets_that_do_not_go_together():
    with pytest.raises(UsageError, match="table 2 needs images with boxes; those of cifar10 have classes"):
        Plan("2", "cifar10", "small").check()
    with pytest.raises(UsageError, match="table 4 needs images with classes; those of coco have boxes"):
        Plan("4", "coco", "full").check()
    with pytest.raises(UsageError, match="--validation is for tables of classification"):
        Plan("2", "bccd", "small", validation=True).check()
    Plan("2", "coco", "full").check()


def test_the_paper_s_numbers_of_each_kind_of_table():
    plan = Plan("2", "bccd", "small")
    assert [measure_of("2").paper(row.cells) for row in plan.rows] == [36.5, 36.8, 36.2, 36.6, 36.6]
    assert [row.model["name"] for row in plan.rows][::4] == ["retinanet_resnet26", "retinanet_sasa_resnet26_attnheads"]
    assert [measure_of("5").paper(row.cells) for row in Plan("5", "digits", "small").rows] == [77.6, 78.2, 80.2]


def test_options_in_the_names_of_networks_cannot_be_set():
    for plan, key in ((("2", "bccd"), "heads"), (("2", "bccd"), "groups"), (("1", "digits"), "groups")):
        with pytest.raises(UsageError, match=f"--set model.{key}: the rows of . differ in it"):
            Plan(*plan, "small", changes=[[f"model.{key}", "conv"]]).check()


def test_a_plan_is_kept_and_not_contradicted(tmp_path):
    recorded = Plan("4", "digits", "small", epochs=3, budget="20m", changes=[["model.width", 0.1]])
    recorded.save(tmp_path)
    assert load_plan(tmp_path) == recorded
    assert agree(Plan("4", "digits", "small", changes=[["model.width", 0.1]]), recorded, tmp_path) == recorded
    faster = Plan("4", "digits", "small", changes=[["run.compile", True], ["model.width", 0.1]])
    assert agree(faster, recorded, tmp_path).changes == faster.changes  # the device may change, and the order
    with pytest.raises(SasaError, match=r"started with --set \{'model.width': 0.1\}, not \{\}"):
        agree(Plan("4", "digits", "small"), recorded, tmp_path)
    with pytest.raises(SasaError, match="started with table '4', not '5'"):
        agree(Plan("5", "digits", "small"), recorded, tmp_path)
    with pytest.raises(SasaError, match="with 3 epochs"):
        agree(Plan("4", "digits", "small", budget="1h", changes=recorded.changes), recorded, tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(SasaError, match="is damaged"):
        load_plan(tmp_path)


def test_the_training_part_of_a_set(tmp_path):
    with pytest.raises(DataError, match="has neither a directory train/ nor exactly one"):
        training_part(str(tmp_path))
    (tmp_path / "train-00000-of-00001.parquet").touch()
    (tmp_path / "test-00000-of-00001.parquet").touch()
    assert training_part(str(tmp_path)) == str(tmp_path / "train-00000-of-00001.parquet")
    (tmp_path / "train").mkdir()
    assert training_part(str(tmp_path)) == str(tmp_path / "train")
    assert training_part("digits") == "digits"


def test_budgets_as_text():
    assert [parse_budget(text) for text in ("90s", "20m", "1.5h", "1h30m")] == [90, 1200, 5400, 5400]
    assert [format_duration(seconds) for seconds in (3, 1200, 7200)] == ["3 s", "20 m", "2 h"]
    for text in ("20", "m", "0s", "-1m", "1d", "1h30", "1h and 3m"):
        with pytest.raises(UsageError, match="--budget takes a time such as"):
            parse_budget(text)


def test_epochs_that_fit():
    costs = [RunCost(2, 10), RunCost(4, 30)]
    # 3 seeds: 18 s once, 120 s an epoch, of nine tenths of the time.
    assert epochs_that_fit(costs, 3, 1000, 90) == 7
    assert epochs_that_fit(costs, 3, 1000, 5) == 5
    assert epochs_that_fit(costs, 3, 154, 90) == 1
    with pytest.raises(UsageError, match=r"one epoch of 2 rows with 3 seeds each takes about 2\.56 m"):
        epochs_that_fit(costs, 3, 150, 90)


def test_means_and_pairs():
    assert mean([]) is None
    assert str(mean([90.0])) == "90.00"
    assert str(mean([1.0, 2.0, 3.0])) == "2.00 ± 0.58"
    difference = paired({0: 91.0, 1: 92.0, 2: 93.0, 3: 50.0}, {2: 90.0, 1: 89.5, 0: 89.0})
    assert difference.signed() == "+2.50 ± 0.29"
    assert conclusion(difference) == "higher"
    assert conclusion(Mean(-2.5, 0.29, 3)) == "lower"
    assert conclusion(Mean(-1.0, 0.29, 3)) == "no conclusion"
    assert conclusion(Mean(-1.0, 0.0, 2)) == conclusion(None) == "no conclusion"
