"""Fixtures of the tests of the command line."""

import sys

import pytest
from PIL import Image

from command import run_command, tiny_settings
from sasa.cli.main import main


@pytest.fixture
def sasa(monkeypatch, capsys):
    """Run `sasa ARGUMENTS`; exit status, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sasa", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory):
    """The run directory of a finished `sasa train`."""
    path = tmp_path_factory.mktemp("runs") / "run"
    run_command("train", "--epochs", 1, "--batch-size", 32, "--output", path, *tiny_settings())
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images and a text file."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.new("L", (20 + number, 16), 80 * number).save(root / f"{number}.png")
    (root / "notes.txt").write_text("three images")
    return root
