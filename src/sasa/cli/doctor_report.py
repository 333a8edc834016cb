"""Report on this installation, for `sasa doctor`. It needs torch only; missing packages are lines of the report."""

import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from sasa import __version__, threads
from sasa.machine import cpu_name
from sasa.ops import backends, native

DISTRIBUTION = "sasa"
GIB = 2**30


@dataclass(frozen=True)
class Requirement:
    """A package that an extra requires. `version` is None if it is not installed."""

    name: str
    wanted: str
    version: str | None
    fits: bool

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name} is missing"
        return f"{self.name} {self.version}" + ("" if self.fits else f" is not {self.wanted}")


def report(as_json: bool = False) -> str:
    """Return the report that `sasa doctor` prints."""
    found = examine()
    return json.dumps(found, indent=2) if as_json else to_text(found)


def examine() -> dict[str, Any]:
    """Examine this installation. `extras` is None if sasa runs from its sources without being installed."""
    compiler = native.cuda_compiler()
    kernels = {"compiler": None, "cache": None, "cached": 0} if compiler is None else {
        "compiler": f"NVRTC {compiler.version} ({compiler.file})", "cache": compiler.cache, "cached": compiler.cached,
    }  # fmt: skip
    return {
        "versions": {"sasa": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "devices": [{"name": name, "description": text} for name, text in devices().items()],
        "threads": {
            "torch": torch.get_num_threads(),
            "cores": threads.cores(),
            "waiting": threads.waiting(os.environ),
            "turns": threads.turns(),
            "load": threads.load(),
        },
        "cpu_library": {
            "file": str(native.DIRECTORY / native.LIBRARY),
            "instruction_set": native.instruction_set(),
            "why_not": native.missing(),
        },
        "cuda_kernels": kernels,
        "backends": [asdict(status) for status in backends()],
        "extras": extras(),
    }


def to_text(found: dict[str, Any]) -> str:
    """Format an examination: a line for each fact, under headings."""
    used, library, kernels = found["threads"], found["cpu_library"], found["cuda_kernels"]
    in_use = f"in use, with {library['instruction_set']} instructions ({library['file']})"
    compiled = {"compiled": f"{kernels['cached']} kernels, kept in {kernels['cache'] or 'memory only'}"}
    sections: dict[str, dict[str, str]] = {
        "versions": found["versions"],
        "devices": {device["name"]: device["description"] for device in found["devices"]},
        "threads": {**used, "torch": f"{used['torch']} of {used['cores']} cores"},
        "CPU kernels": {"library": f"not in use: {library['why_not']}" if library["why_not"] else in_use},
        "CUDA kernels": {"compiler": kernels["compiler"] or "NVRTC was not found"},
        "back-ends": {
            status["name"]: f"not available: {status['why_not']}" if status["why_not"] else status["summary"]
            for status in found["backends"]
        },
        "extras": {extra["name"]: _extra_in_words(extra) for extra in found["extras"] or ()},
    }
    del sections["threads"]["cores"]
    sections["CUDA kernels"] |= compiled if kernels["compiler"] else {}
    sections["extras"] = sections["extras"] or {"unknown": "sasa runs from its sources, it is not installed"}
    width = max(len(name) for lines in sections.values() for name in lines)
    return "\n\n".join(
        "\n".join([heading, *(f"  {name:<{width}}  {text}" for name, text in lines.items())])
        for heading, lines in sections.items()
    )


def _extra_in_words(extra: dict[str, Any]) -> str:
    requirements = [Requirement(**values) for values in extra["requirements"]]
    if extra["installed"]:
        return "installed: " + ", ".join(map(str, requirements))
    return "incomplete: " + ", ".join(str(requirement) for requirement in requirements if not requirement.fits)


def devices() -> dict[str, str]:
    """Describe the CPU, and every accelerator that torch can use, by device name."""
    found = {"cpu": f"{cpu_name()} ({platform.machine()})"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / GIB:.1f} GiB, {capability}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    if torch.xpu.is_available():
        found |= {f"xpu:{index}": torch.xpu.get_device_name(index) for index in range(torch.xpu.device_count())}
    return found


def extras() -> list[dict[str, Any]] | None:
    """List the extras of the installed distribution with their requirements; None if it is not installed."""
    try:
        distribution = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    lines, found = metadata.requires(DISTRIBUTION) or [], []
    for name in distribution.get_all("Provides-Extra") or ():
        required = requirements(lines, name)
        installed = all(requirement.fits for requirement in required)
        found.append({"name": name, "requirements": list(map(asdict, required)), "installed": installed})
    return found


def requirements(lines: list[str], extra: str) -> list[Requirement]:
    """List the requirements of an extra, including those of other extras that it names.

    Args:
        lines: of the distribution's metadata, such as `lightning<2.7,>=2.6.6; extra == "train"`.
        extra: its name.
    """
    found = []
    for line in lines:
        match = re.fullmatch(r"""([\w.-]+)(?:\[([\w,-]+)\])?\s*([^;]*?)\s*;.*extra == ['"]([\w-]+)['"].*""", line)
        if match is None or match[4] != extra:
            continue
        name, others, wanted, _ = match.groups()
        if name == DISTRIBUTION:
            found += [each for other in others.split(",") for each in requirements(lines, other)]
        else:
            found.append(requirement(name, wanted))
    return found


def requirement(name: str, wanted: str) -> Requirement:
    """Check whether a package is installed in a version that `wanted` allows."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Requirement(name, wanted, None, False)
    try:
        from packaging.specifiers import SpecifierSet
    except ModuleNotFoundError:  # without extras; the extra that requires packaging is incomplete
        return Requirement(name, wanted, version, True)
    return Requirement(name, wanted, version, SpecifierSet(wanted).contains(version, prereleases=True))
