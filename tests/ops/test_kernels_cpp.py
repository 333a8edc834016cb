"""The CPU kernels without torch: tests/csrc/test_kernels.cpp compares them with naive loops.

`make test-kernels` builds it with the flags of the library. Here the compiler optimises less and skips the instruction
set that takes longest to compile, so that the test takes half a minute of one core.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import WITHOUT_KERNELS
from processes import HANGING

ROOT = Path(__file__).parents[2]
SETS = {"x86_64": "avx2,portable", "AMD64": "avx2,portable"}  # elsewhere all instruction sets

pytestmark = [
    WITHOUT_KERNELS,  # of the library
    pytest.mark.skipif(not os.environ.get("CXX") and not any(map(shutil.which, ("c++", "g++", "clang++"))),
                       reason="no C++ compiler here (looked for c++, g++ and clang++)"),
    pytest.mark.skipif(platform.machine() not in {*SETS, "aarch64", "arm64"},
                       reason=f"there are no kernels for {platform.machine()}"),
]  # fmt: skip


def test_the_kernels_agree_with_naive_loops(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_kernels_test", "--optimize", "1"]
    command += ["--output", str(tmp_path / "test_kernels"), "--sets", SETS.get(platform.machine(), "")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "test_kernels"], capture_output=True, text=True, timeout=HANGING, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert "0 failed" in summary
    assert not summary.startswith("0 passed")
