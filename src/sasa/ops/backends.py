"""The implementations of the operators: which exist, which can run here, and the sentence that says why not.

One predicate, `why_not`, serves the automatic choice, `sasa.backends()` and the error of an explicit request.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops import native
from sasa.ops.gpu import available


@dataclass(frozen=True)
class Backend:
    """One implementation. `why_not(query)` is None where it can run, else the sentence that says why it cannot."""

    name: str
    summary: str
    why_not: Callable[[Tensor | None], str | None]


@dataclass(frozen=True)
class BackendStatus:
    """What `sasa.backends()` tells of one back-end: `why_not` is None where it can run on this machine."""

    name: str
    summary: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.summary}" + (f" (not here: {self.why_not})" if self.why_not else "")


def _always(query: Tensor | None) -> str | None:
    return None


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("reference", "the equation in plain torch, any device and dtype; the judge, slow", _always),
        Backend("eager", "tiles in plain torch, any device and dtype; what auto runs without a kernel", _always),
        Backend("cpu", "C++ kernels for CPU tensors; what auto runs there", native.why_not),
        Backend("triton", "Triton kernels for CUDA tensors; what auto runs there", available.why_not),
    )
}


def backends() -> tuple[BackendStatus, ...]:
    """Every back-end of the operators, and for each that cannot run on this machine the reason."""
    return tuple(BackendStatus(b.name, b.summary, b.why_not(None)) for b in BACKENDS.values())


def check_backend(name: str, query: Tensor | None = None) -> None:
    """Raise a sentence if `name` is no back-end, or one that cannot run on this machine or this tensor."""
    if name == "auto":
        return
    if name not in BACKENDS:
        raise ArgumentError(f"backend must be one of auto, {', '.join(BACKENDS)}; got {name!r}")
    reason = BACKENDS[name].why_not(query)
    if reason is not None:
        raise ArgumentError(f"backend {name!r} cannot run here: {reason}")
