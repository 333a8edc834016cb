"""Settings for all tests."""

import os
import signal
from pathlib import Path

# cuBLAS repeats its sums to the bit only with a workspace of its own; torch's deterministic algorithms require that.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Before torch is imported, and for every process that a test starts. The tensors here are tiny: a second thread costs
# more than it brings, and where other processes run, as the other workers of the tests do, a hundred times more.
os.environ["OMP_NUM_THREADS"] = "1"
# As the command does: matplotlib refuses to be imported with a name that it does not know.
os.environ["MPLBACKEND"] = "agg"

import pytest
import torch
from hypothesis import HealthCheck, settings

from sasa.ops import native

if torch.cuda.is_available():  # convolutions may otherwise round float32 to TF32, and are compared with exact ones
    torch.backends.cudnn.conv.fp32_precision = "ieee"

# A shell script ignores Ctrl-C for commands in the background, nohup a closed terminal; tests send both signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

GPU_TESTS = Path(__file__).parent / "gpu"

# The same examples every time, and no limit in seconds that a busy machine could miss.
settings.register_profile(
    "sasa", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sasa")


@pytest.fixture
def nan_memory():
    """Let torch.empty return NaN, as deterministic algorithms do, so that elements left unwritten are detected."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def pytest_report_header() -> str:
    """Report which kernels are tested."""
    return f"CPU kernels: {native.instruction_set() or native.missing()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run CUDA kernels on a GPU: those in gpu/, and some cases of others."""
    without_gpu = pytest.mark.skip(reason="torch finds no GPU here")
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if GPU_TESTS in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(without_gpu)
        elif parameters.get("device") == "cuda" and parameters.get("backend", "cuda") in ("auto", "cuda"):
            item.add_marker(pytest.mark.gpu)
