"""A fake GPU: stand-ins for the CUDA driver, NVRTC and the part of the runtime that torch needs (fake/).

Kernels that a process launches on it are logged to a file, or run in emulation on the host's memory.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cuda import emulator

HERE = Path(__file__).parent
SOURCE = emulator.ROOT / "src"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall"]


@cache
def library(name: str, soname: str) -> Path:
    """Build fake/NAME.cpp under the file name of the library that it replaces."""
    source = HERE / "fake" / f"{name}.cpp"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()  # so that a change makes another library
    built = emulator.compile_shared(source, [*FLAGS, "-ldl", f"-DSASA_DIGEST={digest}"])
    named = built.with_suffix("") / soname
    if not named.exists():
        named.parent.mkdir(exist_ok=True)
        fresh = named.with_name(f"{soname}.{os.getpid()}")
        fresh.symlink_to(built)
        fresh.replace(named)
    return named


def driver() -> Path:
    return library("driver", "libcuda.so.1")


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Environment variables of a process that loads the fake driver and logs launches to tmp_path / "log"."""
    ours = {
        "LD_LIBRARY_PATH": str(driver().parent),
        "FAKE_CUDA_LOG": str(tmp_path / "log"),
        "SASA_CACHE": str(tmp_path / "cache"),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SASA_", "FAKE_CUDA_", "CUDA_"))}
    return {**kept, **ours, **variables}


def run_python(script: Path, arguments: Sequence[str], tmp_path: Path, **variables: str):
    """Run a script in a process whose torch sees fake GPUs with emulated kernels."""
    preloaded = library("runtime", "libfakecudart.so")
    nvrtc = library("nvrtc", "libnvrtc.so.13")
    path = os.pathsep.join([str(SOURCE), str(HERE.parent)])
    given = {"LD_PRELOAD": str(preloaded), "SASA_NVRTC": str(nvrtc), "PYTHONPATH": path, **variables}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env=environment(tmp_path, **given)
    )


def log(tmp_path: Path) -> list[str]:
    """The lines of the log: calls of the driver."""
    file = tmp_path / "log"
    return file.read_text().splitlines() if file.exists() else []


def launched(tmp_path: Path) -> list[str]:
    """Names of the kernels launched, in order."""
    return [line.split()[1] for line in log(tmp_path) if line.startswith("launch ")]
