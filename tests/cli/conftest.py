"""What the tests of the command line share."""

import sys

import pytest

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
