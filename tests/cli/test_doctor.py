"""`sasa doctor` reports what is available, and why something is not; it never fails."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from sasa import __version__, threads
from sasa.cli import doctor_report as doctor
from sasa.ops import backends, native


def fields(text):
    """Parse a report: {heading: {name: text}}."""
    sections = (part.splitlines() for part in text.strip().split("\n\n"))
    return {heading: {line.split()[0]: line.split(maxsplit=1)[1] for line in lines} for heading, *lines in sections}


def test_the_report(sasa):
    status, out, err = sasa("doctor")
    assert (status, err) == (0, "")
    found = fields(out)
    versions = {"sasa": __version__, "python": platform.python_version(), "torch": torch.__version__}
    assert found["versions"] == versions
    assert platform.machine() in found["devices"]["cpu"]
    assert found["threads"]["torch"] == f"{torch.get_num_threads()} of {threads.cores()} cores"
    assert set(found["threads"]) == {"torch", "waiting", "turns", "load"}
    assert list(found["back-ends"]) == [status.name for status in backends()]
    assert {"train", "dev"} <= set(found["extras"])


def test_json_holds_the_same(sasa):
    status, out, _ = sasa("doctor", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["versions"]["torch"] == torch.__version__
    assert [b["name"] for b in found["backends"]] == [status.name for status in backends()]
    library = found["cpu_library"]
    assert (library["instruction_set"], library["why_not"]) == (native.instruction_set(), native.missing())
    (train,) = (extra for extra in found["extras"] if extra["name"] == "train")
    typer = {"name": "typer", "wanted": ">=0.15", "version": metadata.version("typer"), "fits": True}
    assert typer in train["requirements"]
    assert train["installed"] == all(requirement["fits"] for requirement in train["requirements"])


def test_the_library_in_use_has_its_instruction_set(sasa, monkeypatch):
    monkeypatch.setattr(native, "missing", lambda: None)
    monkeypatch.setattr(native, "instruction_set", lambda: "avx7")
    file = str(native.DIRECTORY / native.LIBRARY)
    assert fields(sasa("doctor")[1])["CPU kernels"]["library"] == f"in use, with avx7 instructions ({file})"


def test_a_library_that_is_not_in_use_has_a_reason():
    """Run in a new process in which only the environment differs."""
    code = "from sasa.cli.main import main; import sys; sys.argv = ['sasa', 'doctor']; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "SASA_CPU": "off"}
    )
    found = fields(result.stdout)
    assert found["CPU kernels"]["library"] == "not in use: the environment variable SASA_CPU is off"
    assert found["back-ends"]["cpu"] == "not available: the environment variable SASA_CPU is off"


def test_missing_packages_of_an_extra(sasa, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return "2.5.0" if name == "lightning" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    status, out, _ = sasa("doctor")
    assert status == 0
    train = fields(out)["extras"]["train"]
    assert train == "incomplete: lightning 2.5.0 is not <2.7,>=2.6.6, timm is missing"


def test_running_from_sources(sasa, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    status, out, _ = sasa("doctor")
    assert (status, fields(out)["extras"]) == (0, {"unknown": "sasa runs from its sources, it is not installed"})
    assert json.loads(sasa("doctor", "--json")[1])["extras"] is None


LINES = ["torch>=2.11", 'a<2,>=1; extra == "x"', 'b; extra == "x"', 'sasa[x]; extra == "y"', "c[z]>=3; extra == 'y'"]


@pytest.mark.parametrize(("extra", "names"), [("x", ["a", "b"]), ("y", ["a", "b", "c"]), ("z", [])])
def test_requirements_include_those_of_named_extras(extra, names):
    assert [requirement.name for requirement in doctor.requirements(LINES, extra)] == names


def test_accelerators(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA X", total_memory=24 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    found = doctor.devices()
    assert found["cuda:1"] == "NVIDIA X, 24.0 GiB, compute capability 9.0"
    assert "cuda:0" in found
