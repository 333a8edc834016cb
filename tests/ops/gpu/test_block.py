"""The Triton kernels of block attention where there is no GPU: interpreted, and compiled ahead of time.

Where there is a GPU, test_backends_agree_block.py takes them like every other back-end.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
# Those properties of any back-end that interpreted_block.py does not have.
IN_THE_INTERPRETER = "interpreted or (triton-cpu and (any_shape or alone))"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


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
    words = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", HERE / "interpreted_block.py",
             HERE.parent / "test_backends_agree_block.py", "-k", IN_THE_INTERPRETER)  # fmt: skip
    output, status = python(*words, TRITON_INTERPRET="1")
    assert status == 0, output


@needs_triton
def test_the_stem_compiles_without_a_gpu_and_hardly_spills(tmp_path):
    words = (ROOT / "benchmarks" / "gpu_compile.py", "--only", "stem", "--dtype", "bf16", "fp32")
    output, status = python(*words, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert status == 0, output
    assert "16 kernels" in output, output
