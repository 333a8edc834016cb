"""Measurements that need a process of their own: peak memory, and another instruction set."""

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from sasa.analysis.speed.setting import Setting
from sasa.analysis.speed.timing import Step
from sasa.analysis.speed.workloads import network, pictures, training_step
from sasa.errors import SasaError
from sasa.ops.native import instruction_set

# What caps each library at AVX2: our kernels, oneDNN's convolutions, ATen's loops, MKL's products.
AVX2 = {
    "SASA_CPU": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
ENTRY = "from sasa.analysis.speed.isolated import main; main()"


def in_a_process(task: str, setting: Setting, environment: dict[str, str] | None = None, **words: Any) -> Any:
    """The result of `TASKS[task](setting, **words)` in a fresh Python with more in its environment.

    Raises:
        SasaError: the process failed; the last line of what it said.
    """
    request = json.dumps({"task": task, "setting": setting.to_dict(), "words": words})
    result = subprocess.run(  # noqa: S603 - our own interpreter with our own code
        [sys.executable, "-W", "ignore", "-c", ENTRY],
        input=request, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False,
    )  # fmt: skip
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise SasaError(f"measuring {task} in a process of its own failed: {said[-1]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Entry of the fresh process: a request on stdin, its result as the last line of stdout."""
    request = json.loads(sys.stdin.read())
    setting = Setting.from_dict(request["setting"])
    torch.set_num_threads(setting.threads)
    print(json.dumps(TASKS[request["task"]](setting, **request["words"])))


def training_memory(setting: Setting, side: str) -> int:
    """Bytes that one training step needs beyond the network and its batch, gradients of parameters included.

    The first step of the process: what an allocator keeps from an earlier one would hide a part.
    """
    step = training_step(network(side, setting), *pictures(setting))
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


def avx2_inference(setting: Setting) -> dict[str, Any]:
    """The group "inference" in this process, and the instruction sets of ATen and of our kernels."""
    from sasa.analysis.speed.groups import inference

    return {
        "values": inference(setting).values,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "kernels": instruction_set(),
    }


def has_avx2() -> bool:
    """Whether AVX2 is an instruction set of this machine at all."""
    return platform.machine().lower() in ("x86_64", "amd64", "i686")


TASKS = {"training_memory": training_memory, "avx2_inference": avx2_inference}
