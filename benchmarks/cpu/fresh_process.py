"""Measurements in a new process: peak memory, another instruction set, another allocator."""

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.common import first_line
from benchmarks.cpu.results import Measured
from benchmarks.cpu.setting import Setting
from sasa.errors import SasaError
from sasa.ops.native import instruction_set
from sasa.speed import Step

# What limits each library to AVX2: our kernels, oneDNN's convolutions, ATen's loops, MKL's products (on Intel CPUs).
AVX2 = {
    "SASA_CPU": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


class NotPossibleError(SasaError):
    """A comparison that this machine cannot make."""


def in_fresh_process(
    function: Callable[..., Any], setting: Setting, *arguments: Any, environment: dict[str, str] | None = None
) -> Any:
    """Return `function(setting, *arguments)` from a new Python process with `setting.threads` threads.

    Args:
        function: of a module, with arguments and result that can be pickled.
        setting: its first argument.
        arguments: the others.
        environment: variables to add to those of this process.

    Raises:
        SasaError: the function raised an error, or the process ended.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, setting, arguments))
    with mock.patch.dict(os.environ, environment or {}):
        process.start()
    sender.close()
    name = f"{function.__name__} in a new process"
    try:
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise SasaError(f"{name} ended with exit status {process.exitcode}") from None
    finally:
        process.kill()  # also where a stop interrupts the waiting
        process.join()
    if error:
        raise SasaError(f"{name} failed: {error}")
    return result


def _call(sender: Connection, function: Callable[..., Any], setting: Setting, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(setting.threads)
    try:
        sender.send((function(setting, *arguments), None))
    except Exception as error:
        sender.send((None, first_line(error)))


def with_avx2(measure: Callable[[Setting], Measured]) -> Callable[[Setting], Measured]:
    """Make the same comparison in a process where all libraries are limited to AVX2."""

    def measure_with_avx2(setting: Setting) -> Measured:
        if reason := why_not_avx2():
            raise NotPossibleError(reason)
        return in_fresh_process(_with_checked_avx2, setting, measure, environment=AVX2)

    return measure_with_avx2


def _with_checked_avx2(setting: Setting, measure: Callable[[Setting], Measured]) -> Measured:
    """Measure, unless ATen uses another instruction set."""
    vectors, kernels = torch.backends.cpu.get_cpu_capability(), instruction_set()
    if vectors != "AVX2":
        raise SasaError(f"torch was limited to AVX2, but reports {vectors}")
    measured = measure(setting)
    return Measured(measured.unit, measured.values, f"ATen with {vectors}, our kernels with {kernels or 'none'}")


def why_not_avx2() -> str | None:
    """Why limiting torch to AVX2 is impossible or changes nothing on this machine; None if it is possible."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return f"AVX2 is an instruction set of x86, this machine is {platform.machine()}"
    vectors = torch.backends.cpu.get_cpu_capability()
    if vectors == "AVX2":
        return "AVX2 is the widest instruction set here: see the rows without AVX2 in their names"
    return "torch uses no AVX2 on this machine" if vectors == "DEFAULT" else None


def peak_growth(step: Step) -> int:
    """Measure by how many bytes the memory of this process grew at most during the step."""
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, other systems kilobytes
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    # Reset the high-water mark. Where that is forbidden, the peak of the imports may hide a very small step.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _status(status, "VmRSS")
    step()
    return _status(status, "VmHWM") - before


def _status(path: Path, name: str) -> int:
    """Read a line of /proc/self/status, in bytes."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
