"""The registry of back-ends: implementations of the operators, and whether each can run on this machine.

A back-end is one object, in a module of this package. `BACKENDS` is the only place that maps names to
back-ends: an entry can be requested by name, is listed by `sasa.backends()` and `sasa doctor`, and is tested.
"""

from dataclasses import dataclass

from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops.arguments import Calls
from sasa.ops.backends import cpu, cuda, plain, triton
from sasa.ops.backends.base import Backend, Inputs, Options, dispatch
from sasa.ops.fusion import needs_reference

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (plain.REFERENCE, plain.EAGER, cpu.BACKEND, cuda.BACKEND, triton.BACKEND)
}


@dataclass(frozen=True)
class BackendStatus:
    """The status of one back-end in `sasa.backends()`: `why_not` is None where it can run on this machine."""

    name: str
    summary: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.summary}" + (f" (not here: {self.why_not})" if self.why_not else "")


def backends() -> tuple[BackendStatus, ...]:
    """List the back-ends of the operators, with the reason for each that cannot run on this machine."""
    return tuple(BackendStatus(b.name, b.summary, b.why_not()) for b in BACKENDS.values())


def attend(calls: Calls, inputs: Inputs, options: Options, backend: str) -> Tensor:
    """Call an operator on one back-end; for "auto" the dispatcher op, or the reference where only it will do."""
    if backend == "auto" and needs_reference(inputs):
        backend = "reference"
    if backend == "auto":
        return dispatch(calls, inputs, options)
    return find_backend(backend, inputs, options).attend(calls, inputs, options)


def check_backend(name: str) -> None:
    """Raise an `ArgumentError` unless `name` is "auto" or a back-end that can run on this machine."""
    if name != "auto":
        find_backend(name)


def find_backend(name: str, inputs: Inputs | None = None, options: Options | None = None) -> Backend:
    """Return the back-end with this name.

    Raises:
        ArgumentError: the name is unknown, or the back-end cannot run this call (without a call: on this machine).
    """
    if name not in BACKENDS:
        raise ArgumentError(f"backend must be one of auto, {', '.join(BACKENDS)}; got {name!r}")
    reason = BACKENDS[name].why_not(inputs, options)
    if reason is not None:
        raise ArgumentError(f"backend {name!r} cannot run here: {reason}")
    return BACKENDS[name]
