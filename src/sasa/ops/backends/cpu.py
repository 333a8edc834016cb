"""The back-end "cpu": the C++ kernels (csrc/), which register themselves with the dispatcher for CPU tensors."""

from sasa.ops import native
from sasa.ops.backends.base import DispatcherBackend


class CpuBackend(DispatcherBackend):
    """C++ on the CPU."""

    name = "cpu"
    summary = "C++ kernels for CPU tensors; what auto runs there"

    device_type = "cpu"
    dispatch_key = "CPU"

    def missing(self) -> str | None:
        """Return the reason why the library of kernels is not loaded, or None."""
        return native.missing()


BACKEND = CpuBackend()
