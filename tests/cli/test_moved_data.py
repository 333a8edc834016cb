"""`sasa train --resume RUN --data DIR`, and relative paths, from another working directory."""

import shutil

from runs import settings, write_digits
from sasa.tasks.registry import read_config

SMALL = settings(("recipe.batch_size", 16), ("data.limit", 0), ("recipe.epochs", 1))


def test_a_relative_path_is_recorded_as_an_absolute_one(tmp_path, monkeypatch, sasa):
    source = write_digits(tmp_path / "here" / "data", "folder", 80)
    monkeypatch.chdir(source.parent)
    assert sasa("train", *SMALL, "--data", "data", "--output", tmp_path / "run")[0] == 0
    monkeypatch.chdir(tmp_path)
    assert read_config(tmp_path / "run" / "config.yaml").data.source == str(source)
    assert sasa("train", "--resume", "run")[0] == 0
    assert sasa("eval", "--model", "run")[0] == 0
    assert sasa("eval", "--model", "run/best")[0] == 0


def test_resume_takes_data_and_nothing_else(tmp_path, monkeypatch, sasa):
    source = write_digits(tmp_path / "data", "folder", 80)
    assert sasa("train", *SMALL, "--data", source, "--output", tmp_path / "run")[0] == 0
    shutil.move(source, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    status, out, _ = sasa("train", "--resume", "run", "--data", "moved")
    assert status == 0
    assert f"data {tmp_path / 'moved'}" in " ".join(out.split())
    assert sasa("eval", "--model", "run")[0] == 0
    status, _, error = sasa("train", "--resume", "run", "--data", "moved", "--workers", 2)
    assert (status, error.count("\n")) == (2, 1)
    assert "only --data may be given with it" in error
