"""Helpers of the tests of the command line: settings of a small network, a run of it, and the form of an error."""

import sys

import pytest

from sasa.cli.main import main

TINY = (
    "model.width=0.05 model.num_heads=2 model.kernel_size=3 model.layers=[1,1,1,1] model.stem_block=4 data.limit=128"
).split()


def tiny_settings(*more):
    return [word for setting in (*TINY, *more) for word in ("--set", setting)]


def run_command(*arguments):
    """Run `sasa ARGUMENTS`, which must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sasa", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code


def assert_one_sentence(result, status, *parts):
    got, _, error = result
    assert got == status
    assert error.startswith("sasa: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for part in parts:
        assert str(part) in error
