"""`sasa reproduce` on the command line: its output, its errors, and the commands in its documentation."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from command import assert_one_sentence

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()


def test_list(sasa, tmp_path):
    status, out, _ = sasa("reproduce", 1, "--dataset", "imagenet", "--list", "--output", tmp_path / "none")
    assert status == 0
    assert "r50_full" in out
    assert "0 of 3" in out
    assert "77.6" in out
    assert not list(tmp_path.iterdir())


SMALL = "model.width=0.05 model.layers=[1,1,1,1] data.limit=64 recipe.batch_size=32 recipe.epochs=1".split()


def on_digits(folder):
    arguments = ["--dataset", "digits", "--seeds", 1, "--device", "cpu", "--output", folder]
    return arguments + [word for setting in SMALL for word in ("--set", setting)]


def test_some_rows_first_and_then_the_others(sasa, tmp_path):
    arguments = on_digits(tmp_path / "out")
    status, out, err = sasa("reproduce", 6, *arguments, "--row", "qk_*")
    assert status == 0
    assert "reproduce: qk_qr, seed 0 (1 of 1)" in err
    assert out.count("not run") == 1
    status, out, err = sasa("reproduce", 6, *arguments)
    assert status == 0
    assert "reproduce: qr, seed 0 (1 of 2)" in err
    assert "qk_qr, seed 0 (" not in err  # already finished
    assert "not run" not in out


def test_a_table_on_the_digits(sasa, tmp_path):
    arguments = on_digits(tmp_path / "out")
    status, out, err = sasa("reproduce", "table6", *arguments)
    assert status == 0
    assert "| q.r |" in out
    assert "Command: `sasa reproduce table6" in out
    assert "reproduce: qk_qr, seed 0 (2 of 2)" in err
    table = (tmp_path / "out" / "table.md").read_bytes()
    status, _, err = sasa("reproduce", "table6", *arguments)
    assert (status, err) == (0, "")
    assert (tmp_path / "out" / "table.md").read_bytes() == table
    assert "1 of 1" in sasa("reproduce", 6, *arguments, "--list")[1]
    assert sasa("reproduce", 6, *arguments, "--collect")[0] == 0


def test_a_printed_config_is_trained_where_the_table_finds_it(sasa, tmp_path):
    arguments = on_digits(tmp_path / "out")
    status, config, _ = sasa("reproduce", 6, *arguments, "--row", "qr", "--print-config")
    assert status == 0
    assert not (tmp_path / "out").exists()
    (tmp_path / "qr.yaml").write_text(config)
    run = tmp_path / "out" / "runs" / "qr-seed0"
    status, _, _ = sasa("train", "--config", tmp_path / "qr.yaml", "--device", "cpu", "--output", run)
    assert status == 0
    status, out, _ = sasa("reproduce", 6, *arguments, "--collect")
    assert status == 0
    assert "Runs: 1 of 2." in out


def test_errors_are_one_sentence(sasa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(sasa("reproduce", 8), 2, "there is no table '8' to reproduce: choose one of 1, 2,")
    assert_one_sentence(sasa("reproduce", 2), 3, "there is no 'coco' here: say with --data")
    assert_one_sentence(sasa("reproduce", 2, "--dataset", "digits"), 2, "table 2 needs images with boxes")
    assert_one_sentence(sasa("reproduce", 1, "--dataset", "mnist"), 2, "--dataset must be")
    assert_one_sentence(sasa("reproduce", 1, "--scale", "huge"), 2, "--scale of cifar10 must be full or small")
    assert_one_sentence(sasa("reproduce", 1, "--device", "tpu"), 2, "--device must be")
    assert_one_sentence(sasa("reproduce", 1, "--list", "--collect"), 2, "exclude each other")
    assert_one_sentence(sasa("reproduce", 1), 3, "there is no 'cifar10' here: say with --data")
    assert_one_sentence(sasa("reproduce", 1, "--data", tmp_path / "no"), 3, "there is no")
    assert_one_sentence(sasa("reproduce", 1, "--collect", "--output", tmp_path / "no"), 2, "--collect", "no has none")
    wrong = ["--dataset", "digits", "--data", "digits"]
    assert_one_sentence(sasa("reproduce", 4, *wrong, "--budget", "soon"), 2, "--budget takes a time such as 90s")
    assert_one_sentence(sasa("reproduce", 4, *wrong, "--set", "model.kernel_size=3"), 2, "differ in it")
    assert_one_sentence(sasa("reproduce", 4, *wrong, "--row", "k8"), 2, "--row k8: table 4 has k3, k5, k7")
    assert_one_sentence(sasa("reproduce", 4, *wrong, "--row", "k3", "--collect"), 2, "leave --row out")
    assert_one_sentence(sasa("reproduce", 4, *wrong, "--print-config"), 2, "3 rows match: name one with --row (k3,")
    budget = [*wrong, "--row", "k3", "--budget", "1h", "--print-config"]
    assert_one_sentence(sasa("reproduce", 4, *budget), 2, "--budget is measured when the runs start")
    old = sasa("train", "--config", "configs/cifar10/table4_k3.yaml")
    assert_one_sentence(old, 2, "sasa reproduce 4 --dataset cifar10 --row k3 --print-config > k3.yaml")
    assert not list(tmp_path.iterdir())


def test_many_processes_are_refused(sasa, monkeypatch, tmp_path):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    arguments = ["--dataset", "digits", "--data", "digits", "--output", tmp_path / "out"]
    assert_one_sentence(sasa("reproduce", 4, *arguments), 2, "reproduce runs in one process", "--collect")


def in_document(command):
    """The arguments of each `sasa COMMAND` line in the document, without repetitions."""
    lines = re.findall(rf"^(?:timeout -s TERM 9m |torchrun .*-m |srun .*)?sasa ({command} .*)$", DOCUMENT, re.MULTILINE)
    return sorted({line.partition("#")[0].partition(">")[0].strip() for line in lines})


@pytest.mark.parametrize("line", in_document("reproduce"))
def test_tables_of_the_document_can_be_listed(sasa, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line)
    if {"--print-config", "--list"} & set(arguments):
        status, out, _ = sasa(*arguments)
    else:
        status, out, _ = sasa(*arguments, "--list")
    assert status == 0
    assert "runs done" in out or yaml.safe_load(out)["model"]["name"] == "sasa_resnet50"


@pytest.mark.parametrize("line", in_document("train"))
def test_trainings_of_the_document_are_configured(sasa, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r50_full.yaml").write_text("model: {name: sasa_resnet50}\ndata: {source: imagenet}\n")
    status, out, _ = sasa(*shlex.split(line), "--print-config")
    assert status == 0
    assert yaml.safe_load(out)["model"]["name"] == "sasa_resnet50"
