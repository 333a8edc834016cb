"""The Triton kernels where there is no GPU: interpreted, and compiled ahead of time.

Where there is one, test_backends_agree_local.py and test_backends_agree_block.py take them like every other back-end.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path

import pytest

from helpers import WITHOUT_KERNELS
from processes import run_pytest, run_python

pytestmark = WITHOUT_KERNELS  # of the CPU
OPS, ROOT = Path(__file__).parents[1], Path(__file__).parents[3]
# The general tests of a back-end that interpreted_local.py and interpreted_block.py do not repeat.
LOCAL_CHOSEN = "triton-cpu and (any_shape or odd or empty or expanded_embeddings or alone)"
BLOCK_CHOSEN = "triton-cpu and (any_shape or alone)"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def old_interpreter() -> bool:
    """Whether Triton's interpreter breaks on the end of a range that is not known beforehand: 3.6 with numpy 2.4."""
    triton, numpy = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))
    return triton < (3, 7) and numpy >= (2, 4)


@needs_triton
@pytest.mark.parametrize(
    "tests",
    [
        pytest.param(("gpu/interpreted_local.py",), id="local"),
        pytest.param(("test_backends_agree_local.py", "-k", LOCAL_CHOSEN), id="local, any back-end"),
        pytest.param(("gpu/interpreted_block.py",), id="block"),
        pytest.param(("test_backends_agree_block.py", "-k", BLOCK_CHOSEN), id="block, any back-end"),
    ],
)
def test_kernels_in_the_interpreter(tests):
    path, *chosen = tests
    if old_interpreter() and "local" in path:
        pytest.skip("the interpreter of Triton before 3.7 does not run loops with numpy 2.4 or later")
    run_pytest(OPS / path, *chosen, TRITON_INTERPRET="1")


@needs_triton
def test_the_stem_compiles_without_a_gpu_and_hardly_spills(tmp_path):
    arguments = (ROOT / "benchmarks" / "gpu_compile.py", "--only", "stem", "--dtype", "bf16", "fp32")
    output = run_python(*arguments, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert "16 kernels" in output, output


@needs_triton
@pytest.mark.parametrize(("architecture", "head_dims", "count"), [(80, "8", 12), (90, "(8|64)", 24)])
def test_kernels_compile_without_a_gpu_and_hardly_spill(architecture, head_dims, count, tmp_path):
    """Three kernels in bfloat16 and float32, channels last and first. gpu_compile.py sets the limit of spills."""
    case = ("--only", f"local, {head_dims} channels a head", "--dtype", "bf16", "fp32", "--arch", architecture)
    program = ROOT / "benchmarks" / "gpu_compile.py"
    output = run_python(program, *case, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert f"{count} kernels" in output, output
