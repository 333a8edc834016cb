"""Processes that tests start: a fresh Python, and a wait for what one of them does.

No result depends on how busy the machine is. There is one limit, against hanging, far beyond what a test takes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HANGING = 30 * 60  # seconds after which a process is one that waits for ever
TESTS = Path(__file__).parent


def run_python(*words: object, **environment: str) -> str:
    """Run a fresh Python that finds the tests' helpers; what it printed. The test fails where it does."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=HANGING,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )
    if result.returncode != 0:
        asked = " ".join([*(f"{name}={value}" for name, value in environment.items()), "python", *map(str, words)])
        printed = f"{result.stdout}\n{result.stderr}"
        pytest.fail(f"{asked}\nended with exit status {result.returncode}:\n{printed}", pytrace=False)
    return result.stdout


def run_pytest(*words: object, **environment: str) -> str:
    """Run tests in a fresh Python; its report."""
    return run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *words, **environment)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for what a process is to bring about; fail where it ends before, or hangs."""
    end = time.monotonic() + HANGING
    while not holds():
        assert process.poll() is None, f"ended with exit status {process.returncode}: {process.stderr.read()}"
        assert time.monotonic() < end, f"nothing happened in {HANGING} seconds"
        time.sleep(0.005)
