"""The order of imports (CONTRIBUTING.md, "Map of the code"), and the modules that `import sasa` loads."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sasa

ROOT = Path(sasa.__file__).parent
# A folder may import from itself and from those before it; so may the files beside the folders.
ORDER = [
    "errors",
    "files",
    "imports",
    "durations",
    "markdown",
    "machine",
    "threads",
    "ops",
    "nn",
    "models",
    "timm",
    "counting",
    "data",
    "metrics",
    "draw",
    "training",
    "tasks",
    "explore",
    "export",
    "speed",
    "reproduce",
    "cli",
]
# These may import everything; nothing else may import from `sasa` itself.
TOP = ["__init__", "__main__"]
FILES = sorted(ROOT.rglob("*.py"))


def imported(tree: ast.AST, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in a file, those in functions and under `if` included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from sasa import nn` imports sasa.nn, so the name counts as part of the path.
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.append((node.lineno, name.value))
    return found


def forbidden(source: str, path: Path) -> list[str]:
    """A sentence for each import that violates the order."""
    home = path.parts[0].removesuffix(".py")
    if home in TOP and len(path.parts) == 1:
        return []
    rank = ORDER.index(home)
    problems = []
    for line, name in imported(ast.parse(source), ("sasa", *path.parts[:-1])):
        top, *rest = name.split(".")
        if top != "sasa" or rest[:1] == ["__version__"]:
            continue
        if not rest or rest[0] not in ORDER:
            problems.append(f"{path}:{line} imports {name}: import from the folder where it lives")
        elif ORDER.index(rest[0]) > rank:
            problems.append(f"{path}:{line} imports {name}: sasa.{home} comes before sasa.{rest[0]}")
    return problems


def test_every_file_has_its_place_in_the_order():
    homes = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert homes <= {*ORDER, *TOP}, "a new folder or file of src/sasa needs a place in ORDER and in CONTRIBUTING.md"
    assert {"errors", "ops", "nn", "models"} <= homes


def test_the_map_of_the_code_is_complete():
    """CONTRIBUTING.md lists every folder, in the order in which they may import."""
    repository = ROOT.parents[1]
    listed = re.findall(r"^\| `([\w/]+)` \| \w", (repository / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    packages = [folder.removeprefix("src/sasa/") for folder in listed if folder.startswith("src/sasa/")]
    assert packages == [home for home in ORDER if (ROOT / home).is_dir()]
    assert all((repository / folder).is_dir() for folder in listed)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_go_up_the_list_only(path):
    assert not forbidden(path.read_text(), path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("from sasa.nn import LocalAttention2d", "ops/eager.py"),
        ("def f():\n    from sasa.models import create_model", "nn/convert.py"),
        ("import sasa.cli.main", "training/loop.py"),
        ("from sasa import counting", "models/resnet.py"),
        ("from ..data import digits", "counting/count.py"),
        ("from .. import training", "data/digits.py"),
        ("from sasa import create_model", "training/loop.py"),
        ("import sasa", "ops/eager.py"),
        ("if True:\n    import importlib\n    importlib.import_module('sasa.cli')", "models/create.py"),
        ("from sasa.ops import reference", "errors.py"),
        ("from sasa.training import loop", "timm.py"),
    ],
)
def test_the_check_detects_forbidden_imports(source, path):
    assert forbidden(source, Path(path))


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("from sasa.ops import reference\nfrom sasa.nn.position import sinusoid\nimport torch", "nn/attention.py"),
        ("from sasa import __version__\nfrom . import resnet\nfrom .config import x", "models/weights.py"),
        ("from sasa.models import create_model", "timm.py"),
        ("from sasa import ops, errors", "cli/main.py"),
        ("from sasa.cli.main import main", "__init__.py"),
    ],
)
def test_the_check_allows_other_imports(source, path):
    assert not forbidden(source, Path(path))


# fmt: off
HEAVY = {
    "cv2", "faster_coco_eval", "huggingface_hub", "lightning", "matplotlib", "pandas", "PIL", "pyarrow",
    "pytorch_lightning", "rich", "safetensors", "scipy", "sklearn", "tensorboard", "timm", "torchmetrics",
    "torchvision", "transformers", "typer", "yaml",
}
# fmt: on


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after `code`."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_import_sasa_is_light():
    """Names are imported on first use: `sasa --help` does not wait for torch."""
    loaded = loaded_by("import sasa")
    assert "sasa" in loaded
    assert not loaded & (HEAVY | {"torch", "numpy"})


def test_the_library_needs_torch_only():
    """Using every public name and running a model loads none of the extras."""
    loaded = loaded_by(
        "import torch, sasa\n"
        "for name in sasa.__all__: getattr(sasa, name)\n"
        "model = sasa.create_model('sasa_resnet26', num_classes=3, width=0.25)\n"
        "sasa.convert(torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1)))\n"
        "model.eval()(torch.zeros(1, 3, 32, 32))\n"
    )
    assert "torch" in loaded
    assert not loaded & HEAVY
