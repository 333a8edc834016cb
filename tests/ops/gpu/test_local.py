"""The Triton kernels of local attention where there is no GPU: interpreted, and compiled ahead of time.

Where there is one, test_backends_agree_local.py takes them like every other back-end.
"""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def old_interpreter() -> bool:
    """Whether Triton's interpreter breaks on the end of a range that is not known beforehand: 3.6 with numpy 2.4."""
    triton, numpy = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))
    return triton < (3, 7) and numpy >= (2, 4)


def python(*words, **environment):
    """Run a fresh Python; what it printed, and its exit status."""
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip
    return result.stdout + result.stderr, result.returncode


@needs_triton
def test_kernels_in_the_interpreter():
    if old_interpreter():
        pytest.skip("the interpreter of Triton before 3.7 does not run loops with numpy 2.4 or later")
    words = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", HERE / "interpreted_local.py")
    output, status = python(*words, TRITON_INTERPRET="1")
    assert status == 0, output


@needs_triton
@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_without_a_gpu(architecture, tmp_path):
    output, status = python(HERE / "compile_local.py", architecture, TRITON_CACHE_DIR=str(tmp_path))
    assert status == 0, output
    assert output.split() == ["local_forward", "local_queries", "local_keys"], output
