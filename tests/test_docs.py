"""Documentation is tested: paths exist, examples give the output shown, commands run, figures are what is drawn."""

import ast
import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import sasa
from boxes import settings, write_boxes
from sasa.cli.main import main

ROOT = Path(__file__).parents[1]
TINY = (
    "model.width=0.05 model.num_heads=2 model.kernel_size=3 model.layers=[1,1,1,1] data.limit=64 recipe.epochs=1 "
    "recipe.batch_size=16 data.image_size=16 data.workers=0"
).split()


def names_in(path):
    """Functions, classes and Class.method names that a Python file defines at its top."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


MAP = re.findall(r"`((?:src|tests|benchmarks)/[\w/.]+\.py):([\w.]+)`", (ROOT / "docs/paper_map.md").read_text())


def test_the_map_is_not_empty():
    assert len(MAP) > 20


@pytest.mark.parametrize(("path", "name"), sorted(set(MAP)))
def test_every_place_of_the_paper_map_exists(path, name):
    assert name in names_in(ROOT / path)


KERNELS = re.findall(r"`(csrc/[\w/]+\.h):(\w+)`", (ROOT / "docs/paper_map.md").read_text())


@pytest.mark.parametrize(("path", "name"), sorted(set(KERNELS)))
def test_every_kernel_of_the_paper_map_exists(path, name):
    assert re.search(rf"^ *[\w<>:, *&]+ {name}\(", (ROOT / path).read_text(), re.MULTILINE)


MODULES = [m.name for m in pkgutil.walk_packages(sasa.__path__, "sasa.") if not m.name.endswith(("timm", "__main__"))]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    results = doctest.testmod(importlib.import_module(module), extraglobs={"sasa": sasa, "torch": torch})
    assert results.failed == 0


def blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


WITH_PYTHON = ("README.md", "docs/start.md", "docs/how_it_works.md", "docs/detection.md")


@pytest.mark.parametrize("code", [code for document in WITH_PYTHON for code in blocks(document, "python")])
def test_python_of_the_documents_runs(code):
    exec(compile(code, "document", "exec"), {})


def test_links_have_targets():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


@pytest.mark.parametrize("document", ["docs/start.md", "docs/training.md", "docs/detection.md"])
def test_commands_of_the_documents_run(tmp_path, monkeypatch, capsys, document):
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog", "ship"):
        for number in range(10):
            path = tmp_path / "photos" / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 30), 50).convert("RGB").save(path)
    (tmp_path / "photos" / "cat" / "9.jpg").rename(tmp_path / "image.jpg")
    write_boxes(tmp_path / "cells")
    lines = [line for block in blocks(document, "bash") for line in block.splitlines() if line.startswith("sasa ")]
    lines = [line for line in lines if "OWNER/NAME" not in line]  # needs a network and an account
    assert len(lines) >= 3
    for line in lines:
        arguments = shlex.split(line, comments=True)
        if arguments[1] == "train" and "--resume" not in arguments:
            arguments += [word for setting in TINY for word in ("--set", setting)]
        if arguments[1:3] == ["detect", "train"] and "--resume" not in arguments:
            arguments += settings(("recipe.epochs", 1))
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, f"{line}: {capsys.readouterr().err}"


def test_ratios_of_the_readme_are_those_of_the_benchmarks():
    ratio = re.compile(r"\b\d\.\d\d(?= \|)")
    measured = (ROOT / "benchmarks/README.md").read_text().partition("[start:ratios]")[2].partition("[end:ratios]")[0]
    stated = ratio.findall((ROOT / "README.md").read_text())
    assert len(stated) == 8
    assert set(stated) <= set(ratio.findall(measured))


def test_figures_are_what_their_command_draws(tmp_path):
    figures = ROOT / "docs/figures"
    shutil.copy(figures / "draw.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "draw.py"], check=True)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert [path.name for path in drawn] == [path.name for path in sorted(figures.glob("*.svg"))]
    for path in drawn:
        assert path.read_bytes() == (figures / path.name).read_bytes(), path.name
