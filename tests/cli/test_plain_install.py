"""The command in an installation that lacks an extra: one sentence, and a doctor that still works."""

import json
import subprocess
import sys

import pytest


def run(missing, *arguments):
    """`sasa WORDS` in a Python that cannot import the packages in `missing`."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); sys.argv = {['sasa', *arguments]!r}\n"
        "from sasa.cli.main import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--help"], [], ["train"], ["doctor", "--yaml"]])
def test_missing_typer_is_one_sentence(arguments):
    result = run(["typer"], *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "sasa: the command line needs typer, which is not installed: pip install 'sasa[train]' "
        "('sasa doctor' runs without)\n"
    )


def test_the_doctor_needs_nothing():
    missing = ["typer", "rich", "packaging", "yaml", "numpy", "PIL", "matplotlib", "torchvision", "timm", "safetensors"]
    result = run(missing, "doctor", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["versions"]["sasa"]


def test_another_package_that_is_missing_is_named():
    result = run(["yaml"], "train", "--print-config")
    assert result.returncode == 1
    assert result.stderr == "sasa: this command needs yaml, which is not installed: pip install 'sasa[train]'\n"


def test_help_is_light():
    code = (
        "import sys; sys.argv = ['sasa', '--help']\nfrom sasa.cli.main import main\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "PIL", "matplotlib", "huggingface_hub"} & set(out.splitlines()[-1].split())
