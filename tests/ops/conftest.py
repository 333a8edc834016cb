"""Fixtures of the tests of operators."""

import pytest
import torch


@pytest.fixture
def _allocations_are_nan():
    """Deterministic algorithms make torch.empty return NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
