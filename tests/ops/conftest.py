"""What the tests of the operators share."""

import pytest
import torch


@pytest.fixture
def _allocations_are_nan():
    """torch.empty gives NaN while deterministic algorithms are asked for."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
