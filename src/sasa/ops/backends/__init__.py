"""The implementations of the operators: which exist, which can run here, and the sentence that says why not.

A back-end is one object, in a module of its own here. `BACKENDS` is all that chooses between them by name: an entry
of it can be asked for, is listed by `sasa.backends()` and `sasa doctor`, and joins the tests.
"""

from dataclasses import dataclass

from sasa.errors import ArgumentError
from sasa.ops.backends import cpu, cuda, eager, reference, triton
from sasa.ops.backends.base import Backend, Inputs, Options

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (reference.BACKEND, eager.BACKEND, cpu.BACKEND, cuda.BACKEND, triton.BACKEND)
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
    """Every back-end of the operators, and for each that cannot run on this machine the reason."""
    return tuple(BackendStatus(b.name, b.summary, b.why_not()) for b in BACKENDS.values())


def check_backend(name: str) -> None:
    """Raise a sentence if `name` is neither "auto" nor a back-end that can run on this machine."""
    if name != "auto":
        find_backend(name)


def find_backend(name: str, inputs: Inputs | None = None, options: Options | None = None) -> Backend:
    """The back-end of that name.

    Raises:
        ArgumentError: there is none, or it cannot run this call (without a call: on this machine).
    """
    if name not in BACKENDS:
        raise ArgumentError(f"backend must be one of auto, {', '.join(BACKENDS)}; got {name!r}")
    reason = BACKENDS[name].why_not(inputs, options)
    if reason is not None:
        raise ArgumentError(f"backend {name!r} cannot run here: {reason}")
    return BACKENDS[name]
