"""The Triton kernels of block attention where there is no GPU: interpreted, and compiled ahead of time.

Where there is a GPU, test_backends_agree_block.py takes them like every other back-end.
"""

import importlib.util
from pathlib import Path

import pytest

from helpers import WITHOUT_KERNELS
from processes import run_pytest, run_python

pytestmark = WITHOUT_KERNELS  # of the CPU
OPS, ROOT = Path(__file__).parents[1], Path(__file__).parents[3]
# The general tests of a back-end that interpreted_block.py does not repeat.
OF_ANY_BACKEND = "triton-cpu and (any_shape or alone)"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
@pytest.mark.parametrize(
    "tests",
    [("gpu/interpreted_block.py",), ("test_backends_agree_block.py", "-k", OF_ANY_BACKEND)],
    ids=["interpreted", "any back-end"],
)
def test_kernels_in_the_interpreter(tests):
    path, *chosen = tests
    run_pytest(OPS / path, *chosen, TRITON_INTERPRET="1")


@needs_triton
def test_the_stem_compiles_without_a_gpu_and_hardly_spills(tmp_path):
    arguments = (ROOT / "benchmarks" / "gpu_compile.py", "--only", "stem", "--dtype", "bf16", "fp32")
    output = run_python(*arguments, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert "16 kernels" in output, output
