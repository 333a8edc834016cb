"""Measurements that need a process of their own: peak memory, another instruction set, another allocator."""

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sasa.errors import SasaError
from sasa.ops.native import instruction_set
from sasa.speed.setting import Setting
from sasa.speed.timing import Step
from sasa.speed.workloads import network, random_images, training_step

ENTRY = "from sasa.speed.isolated import main; main()"


@dataclass(frozen=True)
class Answer:
    """What a function gave in a process of its own; `vectors` are ATen's there, `kernels` ours (None: not in use)."""

    result: Any
    vectors: str
    kernels: str | None


def in_a_process(
    function: Callable[..., Any], setting: Setting, environment: dict[str, str] | None = None, **words: Any
) -> Answer:
    """`function(setting, **words)` in a fresh Python with more in its environment.

    Args:
        function: of a module; its result is what JSON can hold, or a dataclass, which arrives as a dictionary.
        setting: its threads are those of the process.
        environment: variables beside those of this process.
        words: what JSON can hold.

    Raises:
        SasaError: the process failed; the last line of what it said.
    """
    request = {
        "module": function.__module__, "name": function.__name__, "setting": setting.to_dict(), "words": words,
    }  # fmt: skip
    result = subprocess.run(  # noqa: S603 - our own interpreter with our own code
        [sys.executable, "-W", "ignore", "-c", ENTRY],
        input=json.dumps(request), capture_output=True, text=True, env={**os.environ, **(environment or {})},
        check=False,
    )  # fmt: skip
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise SasaError(f"measuring {function.__name__} in a process of its own failed: {said[-1]}")
    return Answer(**json.loads(result.stdout.splitlines()[-1]))


def main() -> None:
    """Entry of the fresh process: a request on stdin, an answer as the last line of stdout."""
    request = json.loads(sys.stdin.read())
    setting = Setting.from_dict(request["setting"])
    torch.set_num_threads(setting.threads)
    function = getattr(importlib.import_module(request["module"]), request["name"])
    result = function(setting, **request["words"])
    answer = Answer(result, torch.backends.cpu.get_cpu_capability(), instruction_set())
    print(json.dumps(dataclasses.asdict(answer)))


def training_memory(setting: Setting, side: str) -> int:
    """Bytes that one training step needs beyond the network and its batch, gradients of parameters included.

    The first step of the process: what an allocator keeps from an earlier one would hide a part.
    """
    step = training_step(network(side, setting), *random_images(setting))
    return peak_growth(step)


def peak_growth(step: Step) -> int:
    """Bytes by which this process grew at most while `step` ran."""
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    # The high-water mark comes down to what is held now. Where that is forbidden, the imports' own peak may hide a
    # very small step; a network's step is far above it.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _status(status, "VmRSS")
    step()
    return _status(status, "VmHWM") - before


def _status(path: Path, name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
