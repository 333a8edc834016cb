"""Every test that reaches a CPU kernel, repeated with each instruction set below the one in use.

The library reads SASA_CPU once, when it is loaded, so a separate Python process runs the tests for each set: all of
tests/ops and of the layers, except those marked `without_kernels`. A failure quotes the command that repeats it.
"""

import os
from pathlib import Path

import pytest

from helpers import WITHOUT_KERNELS
from processes import run_pytest
from sasa.ops import native

OPS = Path(__file__).parent
LAYERS = (OPS.parent / "nn", "--ignore-glob=*/test_convert*")  # not of whole networks
ASKED = os.environ.get("SASA_CPU") or "off"
BELOW = {"avx512": ["avx2", "portable"], "avx2": ["portable"], "neon": ["portable"], "portable": [], None: []}


@WITHOUT_KERNELS
@pytest.mark.parametrize("instruction_set", BELOW[native.instruction_set()])
def test_every_test_that_reaches_a_kernel(instruction_set):
    run_pytest(OPS, *LAYERS, "-m", "not without_kernels", SASA_CPU=instruction_set)


@pytest.mark.skipif(ASKED == "off", reason="SASA_CPU names no instruction set")
def test_the_requested_instruction_set_is_in_use():
    assert native.instruction_set() == ASKED, native.missing()
