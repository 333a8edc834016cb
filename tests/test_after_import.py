"""`after_import`: an action right after the first import of a module, which keeps its own loader."""

import importlib
import importlib.util
import inspect
import sys

import pytest

from sasa.imports import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that can be imported and has not been."""
    (tmp_path / "watched_module.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    yield "watched_module"
    sys.modules.pop("watched_module", None)


def test_before_the_import(module):
    seen = []
    after_import(module, lambda: seen.append(sys.modules[module].VALUE))
    finders = len(sys.meta_path)
    assert importlib.util.find_spec(module) is not None
    assert not seen, "finding the spec does not import the module"
    imported = importlib.import_module(module)
    assert seen == [1]
    assert len(sys.meta_path) == finders - 1
    assert inspect.getsource(imported) == "VALUE = 1\n"
    importlib.reload(imported)
    assert seen == [1]


def test_after_the_import(module):
    importlib.import_module(module)
    seen, finders = [], len(sys.meta_path)
    after_import(module, lambda: seen.append(True))
    assert seen == [True]
    assert len(sys.meta_path) == finders


def test_an_action_may_import_the_module(module):
    seen = []
    after_import(module, lambda: seen.append(importlib.import_module(module).VALUE))
    importlib.import_module(module)
    assert seen == [1]


def test_a_module_that_does_not_exist(module):
    seen = []
    after_import("no_such_module", lambda: seen.append(True))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module")
    assert not seen
