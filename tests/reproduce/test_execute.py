"""Running a table, at once or stopped and continued, and the errors of runs that do not fit."""

import csv
import json
import os
import shutil
import signal

import pytest

import sasa.reproduce.execute as execute
from boxes import TINY as TINY_BOXES
from boxes import write_boxes
from sasa.errors import DivergedError, SasaError, UsageError
from sasa.reproduce.budget import measure
from sasa.reproduce.execute import Reproduction
from sasa.reproduce.plan import Plan
from sasa.training.loop import Trainer
from sasa.training.signals import StoppedError

TINY = [
    ["model.width", 0.05],
    ["model.layers", [1, 1, 1, 1]],
    ["data.limit", 128],
    ["recipe.batch_size", 32],
    ["recipe.epochs", 2],
]
LOGITS = Plan("6", "digits", "small", changes=TINY)


def on_digits(plan, output, data="digits", **options):
    return Reproduction(plan, 1, data, output, "cpu", **options)


def reproduce(output):
    reproduction = on_digits(LOGITS, output).settle(LOGITS.rows)
    try:
        reproduction.run_all(LOGITS.rows)
    finally:
        text = reproduction.report("sasa reproduce")
    return text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, reproduce(directory)


def test_a_whole_table(whole):
    directory, text = whole
    rows = list(csv.DictReader((directory / "results.csv").read_text().splitlines()))
    assert [(row["row"], row["seed"], row["state"], row["epochs"]) for row in rows] == [
        (name, "0", "done", "2") for name in ("qr", "qk_qr")
    ]
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    assert [line[1].strip() for line in lines[2:]] == ["q.r", "q.k + q.r"]
    assert [line[4].strip() for line in lines[2:]] == ["76.9", "77.4"]
    assert [line[7].strip() for line in lines[2:]] == ["-0.5", ""]
    assert f"{float(rows[0]['top1']):.2f}" in lines[2][5]
    assert "on 359 images: a part of the training images that was held out, drawn anew for each seed" in text
    assert "Paper: ImageNet, the test set" in text
    assert (directory / "table.md").read_text() == text


def stop_after(monkeypatch, steps, number):
    """Send this process a signal after so many steps, over all runs."""
    step, taken = Trainer.train_step, []

    def stopping(*arguments):
        loss = step(*arguments)
        taken.append(loss)
        if len(taken) == steps:
            os.kill(os.getpid(), number)
        return loss

    monkeypatch.setattr(Trainer, "train_step", stopping)
    return taken


# 8 steps a run: in the middle of the second run; and at the end of the first, where nothing is left of it to save.
@pytest.mark.parametrize(("steps", "number"), [(11, signal.SIGTERM), (8, signal.SIGINT)])
def test_a_stopped_and_continued_table_is_the_same(whole, tmp_path, monkeypatch, steps, number):
    taken = stop_after(monkeypatch, steps, number)
    with pytest.raises(StoppedError, match=r"\(2 of 2\).*the same command continues there") as stopped:
        reproduce(tmp_path)
    assert stopped.value.exit_status == 128 + number
    assert "Runs: 1 of 2." in (tmp_path / "table.md").read_text()
    text = reproduce(tmp_path)
    assert len(taken) == 16  # no step was taken twice
    assert text == whole[1]
    assert (tmp_path / "results.csv").read_bytes() == (whole[0] / "results.csv").read_bytes()
    reproduce(tmp_path)
    assert len(taken) == 16  # and finished runs are skipped


def test_a_signal_while_a_run_is_built_stops_it_after_a_step(whole, tmp_path, monkeypatch):
    """Decoding the images of a large set takes a minute, during which `timeout` may expire."""
    taken, train = stop_after(monkeypatch, 100, signal.SIGTERM), execute.train

    def train_met_by_a_signal(*arguments):
        monkeypatch.setattr(execute, "train", train)
        os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments)

    monkeypatch.setattr(execute, "train", train_met_by_a_signal)
    with pytest.raises(StoppedError, match=r"stopped in qr, seed 0 \(1 of 2\), saved"):
        reproduce(tmp_path)
    assert len(taken) == 1
    assert reproduce(tmp_path) == whole[1]
    assert len(taken) == 16


def test_runs_on_other_images_are_not_put_into_one_table(whole, tmp_path):
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    logits, summary = on_digits(LOGITS, tmp_path), tmp_path / "runs" / "qr-seed0" / "summary.json"
    found = json.loads(summary.read_text())
    assert (found["training_pictures"], found["held_out_drawn"]) == (128, True)
    summary.write_text(json.dumps({**found, "training_pictures": 127}))
    with pytest.raises(SasaError, match=r"qr-seed0 has 127 training images, .*qk_qr-seed0 has 128: runs of one"):
        logits.check_done()
    with pytest.raises(SasaError, match="has 127 training images"):
        logits.report("sasa reproduce")
    summary.write_text(json.dumps({**found, "held_out_drawn": False}))
    with pytest.raises(SasaError, match=r"qr-seed0 was scored on the data's own .* as the others were"):
        logits.check_done()


def test_the_report_says_which_images_the_runs_were_scored_on(whole, tmp_path):
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    for summary in tmp_path.glob("runs/*/summary.json"):
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "held_out_drawn": False}))
    text = on_digits(LOGITS, tmp_path).report("sasa reproduce")
    assert "on 359 images: the test or validation images of the data itself. With" in text
    validation = Plan("6", "digits", "small", validation=True, changes=TINY)
    with pytest.raises(SasaError, match=r"as --validation says: they do not belong"):
        on_digits(validation, tmp_path).check_done()


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    logits = on_digits(LOGITS, tmp_path)
    run = logits.runs[0]
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text("left by a power cut")
    assert run.state == "new"
    logits.run_all([run.row])
    assert run.state == "done"


OTHER = Plan("6", "digits", "small", changes=[*TINY, ["recipe.learning_rate", 0.1]])


def test_a_run_with_another_config_in_its_directory_is_refused(whole):
    output, _ = whole
    with pytest.raises(SasaError, match=r"was run with recipe.learning_rate 0.05, but the table needs 0.1"):
        on_digits(OTHER, output).check_done()
    on_digits(LOGITS, output, "elsewhere").check_done()


def test_a_plan_that_the_runs_contradict_is_not_kept(whole, tmp_path):
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    with pytest.raises(SasaError, match=r"was run with recipe\.learning_rate 0\.05"):
        on_digits(OTHER, tmp_path).settle(OTHER.rows)
    assert not (tmp_path / "plan.json").exists()
    on_digits(LOGITS, tmp_path).settle(LOGITS.rows)


def test_a_row_that_diverges_is_reported_as_diverged(tmp_path, monkeypatch):
    train = execute.train

    def diverging(config, path):
        if config.model["position"] == "none":
            path.mkdir(parents=True)
            (path / "diverged.json").write_text("{}")
            raise DivergedError("the loss became nan")
        return train(config, path)

    monkeypatch.setattr(execute, "train", diverging)
    plan = Plan("5", "digits", "small", epochs=1, changes=TINY)
    positions = on_digits(plan, tmp_path)
    positions.run_all(plan.matching(["none"]))
    assert "| not run | 0, 1 diverged |" in positions.report("sasa")


@pytest.mark.parametrize("table", ["4", "figure5"])
def test_a_figure_is_drawn_where_the_paper_has_one(tmp_path, whole, table):
    assert not (whole[0] / "figure.png").exists()
    plan = Plan(table, "digits", "small")
    reproduction = Reproduction(plan, 2, "digits", tmp_path)
    for number, run in enumerate(reproduction.runs):
        run.path.mkdir(parents=True)
        found = {"held_out_top1": 0.9 + number / 100, "held_out_top5": 1.0, "held_out_pictures": 359}
        (run.path / "summary.json").write_text(json.dumps({**found, "parameters": 10**6 + number, "epochs": 1}))
    text = reproduction.report("sasa")
    assert text.count("no conclusion") == sum(row.beside is not None for row in plan.rows)  # of two seeds
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_budget_decides_the_epochs(tmp_path):
    said = []
    plan = Plan("5", "digits", "small", budget="1000h", changes=TINY)
    positions = on_digits(plan, tmp_path, say=said.append)
    settled = positions.settle(plan.rows)
    assert settled.plan.epochs == 2  # as many as the recipe has, and no more
    assert "2 of the recipe's 2 epochs for each of 3 runs" in said[-1]
    (tmp_path / "runs").mkdir()
    assert positions.settle(plan.rows) == settled  # nothing is measured again
    assert len(said) == 4
    cost = measure(plan.config(plan.rows[0], 0, "digits", "cpu"))
    assert cost.epoch > 0
    short = Plan("5", "digits", "small", budget="1s", changes=TINY)
    with pytest.raises(UsageError, match="--budget is too short: one epoch of 3 rows"):
        on_digits(short, tmp_path / "b").settle(short.rows)
    assert not (tmp_path / "b").exists()


def test_a_table_of_detection(tmp_path):
    """One of its rows is run; the others are reported as not run."""
    data = write_boxes(tmp_path / "boxes")
    changes = [[key, value] for key, value in TINY_BOXES if key not in ("model.name", "run.accelerator")]
    plan = Plan("2", "bccd", "small", budget="1000h", changes=changes)
    detection = on_digits(plan, tmp_path / "runs", str(data)).settle(plan.rows)
    assert detection.plan.epochs == 2
    detection.run_all(plan.matching(["attention_full"]))
    detection.check_done()
    text = detection.report("sasa reproduce 2")
    summary = detection.runs[-1].summary()
    last = [cell.strip() for cell in text.splitlines()[8].split("|")[1:-1]]
    score = f"{100 * summary['held_out_map']:.2f}"
    assert last == [
        "attention heads, full attention",
        "22.0",
        f"{summary['parameters'] / 1e6:.2f}",
        "36.6",
        score,
        *last[5:],
    ]
    assert last[5:] == ["1", "+0.1", "", ""]
    assert "mAP %, paper" in text
    assert "bccd, on 4 images: the validation images of the data itself" in text
    assert "Paper: COCO (the paper does not say which part)" in text
    row = list(csv.DictReader((tmp_path / "runs" / "results.csv").read_text().splitlines()))[-1]
    assert float(row["map50"]) == pytest.approx(100 * summary["held_out_map50"], abs=1e-3)
    assert (row["paper_map"], row["state"]) == ("36.6", "done")
