"""Processes that tests start: a fresh Python, and a wait for what one of them does.

No result depends on how busy the machine is. The only time limit, against hanging, is far beyond what a test takes.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HANGING = 30 * 60  # seconds after which a process counts as hanging
TESTS = Path(__file__).parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start_python(*arguments: object, **environment: str) -> subprocess.Popen:
    """A fresh Python that finds the tests' helpers, in its own session, so that it can be killed with its children."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_python(*arguments: object, **environment: str) -> str:
    """Run a fresh Python to its end and return its output. The test fails if the process does."""
    process = start_python(*arguments, **environment)
    try:
        out, err = process.communicate(timeout=HANGING)
    finally:
        if process.poll() is None:
            kill(process)
    if process.returncode != 0:
        command = " ".join(
            [*(f"{name}={value}" for name, value in environment.items()), "python", *map(str, arguments)]
        )
        pytest.fail(f"{command}\nended with exit status {process.returncode}:\n{out}\n{err}", pytrace=False)
    return out


def run_torchrun(*arguments: object) -> str:
    """Run a script or `-m MODULE` in a process group of two with gloo; return the output."""
    return run_python(*TORCHRUN, *arguments)


def run_pytest(*arguments: object, **environment: str) -> str:
    """Run tests in a fresh Python; return the report."""
    return run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, **environment)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait until `holds()` is true; fail if the process ends before, or hangs."""
    end = time.monotonic() + HANGING
    while not holds():
        assert process.poll() is None, f"ended with exit status {process.returncode}: {process.stderr.read()}"
        assert time.monotonic() < end, f"nothing happened in {HANGING} seconds"
        time.sleep(0.005)


def kill(process: subprocess.Popen) -> None:
    """Kill a process of `start_python` and those that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
