"""What this installation is and what it can use: `sasa doctor`. It looks and never fails: what is missing is a line."""

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
from sasa.ops import backends as every_backend
from sasa.ops import native
from sasa.ops.backends import BackendStatus

DISTRIBUTION = "sasa"
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device that torch sees here."""

    name: str
    description: str


@dataclass(frozen=True)
class Threads:
    """How many threads torch has, and how they get along with others on the machine."""

    torch: int
    cores: int
    waiting: str
    turns: str
    load: str

    def lines(self) -> dict[str, str]:
        """What `sasa doctor` prints of it."""
        return {
            "torch": f"{self.torch} of {self.cores} cores",
            "waiting": self.waiting,
            "turns": self.turns,
            "load": self.load,
        }


@dataclass(frozen=True)
class CpuLibrary:
    """The library of CPU kernels: its instruction set where it is in use, else the sentence that says why not."""

    file: str
    instruction_set: str | None
    why_not: str | None

    def __str__(self) -> str:
        if self.why_not:
            return f"not in use: {self.why_not}"
        return f"in use, with {self.instruction_set} instructions ({self.file})"


@dataclass(frozen=True)
class CudaKernels:
    """What compiles the CUDA kernels, and where they are kept; `compiler` is None where there is no NVRTC."""

    compiler: str | None
    cache: str | None
    cached: int

    def to_lines(self) -> dict[str, str]:
        """As `sasa doctor` prints it. Whether they can run here is told among the back-ends."""
        if self.compiler is None:
            return {"compiler": "none: NVRTC was not found"}
        return {"compiler": self.compiler, "compiled": f"{self.cached} kernels, kept in {self.cache or 'memory only'}"}


@dataclass(frozen=True)
class Requirement:
    """A package that an extra asks for. `version` is None where it is not installed."""

    name: str
    wanted: str
    version: str | None
    fits: bool

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name} is missing"
        return f"{self.name} {self.version}" + ("" if self.fits else f" is not {self.wanted}")


@dataclass(frozen=True)
class Extra:
    """An optional part of sasa: pip install 'sasa[NAME]'."""

    name: str
    requirements: tuple[Requirement, ...]

    @property
    def lacks(self) -> list[Requirement]:
        """What is missing, or of a version that does not fit."""
        return [requirement for requirement in self.requirements if not requirement.fits]

    def __str__(self) -> str:
        if not self.lacks:
            return "installed: " + ", ".join(map(str, self.requirements))
        return "incomplete: " + ", ".join(map(str, self.lacks))


@dataclass(frozen=True)
class Examination:
    """All that `sasa doctor` tells. `extras` is None where sasa runs from its sources without being installed."""

    versions: dict[str, str]
    devices: tuple[Device, ...]
    threads: Threads
    cpu_library: CpuLibrary
    cuda_kernels: CudaKernels
    backends: tuple[BackendStatus, ...]
    extras: tuple[Extra, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        values = asdict(self)
        for extra in values["extras"] or ():
            extra["installed"] = all(requirement["fits"] for requirement in extra["requirements"])
        return values


def examine() -> Examination:
    """Look at this installation."""
    return Examination(
        versions={"sasa": __version__, "python": platform.python_version(), "torch": torch.__version__},
        devices=devices(),
        threads=Threads(
            torch=torch.get_num_threads(),
            cores=threads.cores(),
            waiting=threads.waiting(os.environ),
            turns=threads.turns(),
            load=threads.load(),
        ),
        cpu_library=CpuLibrary(str(native.FOLDER / native.LIBRARY), native.instruction_set(), native.missing()),
        cuda_kernels=cuda_kernels(),
        backends=every_backend(),
        extras=extras(),
    )


def to_text(found: Examination) -> str:
    """One line a fact, under headings."""
    sections = {
        "versions": found.versions,
        "devices": {device.name: device.description for device in found.devices},
        "threads": found.threads.lines(),
        "CPU kernels": {"library": str(found.cpu_library)},
        "CUDA kernels": found.cuda_kernels.to_lines(),
        "back-ends": {b.name: f"not here: {b.why_not}" if b.why_not else b.summary for b in found.backends},
        "extras": {e.name: str(e) for e in found.extras or ()} or {"unknown": "sasa runs from its sources"},
    }
    width = max(len(name) for lines in sections.values() for name in lines)
    return "\n\n".join(
        "\n".join([heading, *(f"  {name:<{width}}  {text}" for name, text in lines.items())])
        for heading, lines in sections.items()
    )


def report(as_json: bool = False) -> str:
    """What `sasa doctor` prints."""
    found = examine()
    return json.dumps(found.to_dict(), indent=2) if as_json else to_text(found)


def devices() -> tuple[Device, ...]:
    """The processor, and every accelerator that torch sees."""
    found = [Device("cpu", f"{cpu_name()} ({platform.machine()})")]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        found.append(
            Device(f"cuda:{index}", f"{properties.name}, {properties.total_memory / GIB:.1f} GiB, {capability}")
        )
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU"))
    if torch.xpu.is_available():
        found += [Device(f"xpu:{i}", torch.xpu.get_device_name(i)) for i in range(torch.xpu.device_count())]
    return tuple(found)


def cuda_kernels() -> CudaKernels:
    """NVRTC and the kernels that it has compiled on this machine."""
    compiler = native.cuda_compiler()
    if compiler is None:
        return CudaKernels(None, None, 0)
    return CudaKernels(f"NVRTC {compiler.version} ({compiler.file})", compiler.cache, compiler.cached)


def extras() -> tuple[Extra, ...] | None:
    """Every extra of the installed distribution with what it asks for; None where there is no such distribution."""
    try:
        distribution = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    lines = metadata.requires(DISTRIBUTION) or []
    names = distribution.get_all("Provides-Extra") or ()
    return tuple(Extra(name, tuple(requirements(lines, name))) for name in names)


def requirements(lines: list[str], extra: str) -> list[Requirement]:
    """What one extra asks for, other extras that it names among it.

    Args:
        lines: as the metadata of a distribution has them: `lightning<2.7,>=2.6.6; extra == "train"`.
        extra: its name.
    """
    found = []
    for line in lines:
        asked = re.fullmatch(r"""([\w.-]+)(?:\[([\w,-]+)\])?\s*([^;]*?)\s*;.*extra == ['"]([\w-]+)['"].*""", line)
        if asked is None or asked[4] != extra:
            continue
        name, others, wanted, _ = asked.groups()
        if name == DISTRIBUTION:
            found += [r for other in others.split(",") for r in requirements(lines, other)]
        else:
            found.append(requirement(name, wanted))
    return found


def requirement(name: str, wanted: str) -> Requirement:
    """Whether a package is there, and in a version that `wanted` allows."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Requirement(name, wanted, None, False)
    try:
        from packaging.specifiers import SpecifierSet
    except ModuleNotFoundError:  # a plain installation; the extra that asks for packaging is told as incomplete
        return Requirement(name, wanted, version, True)
    return Requirement(name, wanted, version, SpecifierSet(wanted).contains(version, prereleases=True))
