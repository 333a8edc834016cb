"""Fixtures of the tests of the CUDA kernels on a GPU."""

import pytest
import torch

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


@pytest.fixture
def nan_memory():
    """Let torch.empty return NaN, so that elements that a kernel does not write are detected."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
