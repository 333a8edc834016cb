"""What the tests of the CUDA kernels on a GPU share."""

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
    """The dispatcher takes the CUDA kernels."""
    reason = native.cuda_not_chosen()
    if reason is not None:
        pytest.skip(f"{reason}: SASA_GPU=cuda does")


@pytest.fixture
def nan_memory():
    """torch.empty gives NaN, so that what a kernel does not write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
