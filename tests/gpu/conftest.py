"""Fixtures of the tests of the CUDA kernels on a GPU."""

import pytest

from sasa.ops import native
from sasa.ops.backends import BACKENDS


@pytest.fixture(autouse=True)
def _cuda_kernels_run_here():
    reason = BACKENDS["cuda"].why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def chosen():
    """Let the dispatcher choose the CUDA kernels."""
    reason = native.cuda_not_chosen()
    if reason is not None:
        pytest.skip(f"{reason}: SASA_GPU=cuda does")
