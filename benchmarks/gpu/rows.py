"""A row: the unit that is measured, printed and saved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]
LONGEST = 60.0  # seconds of a row
FAILED = "failed"  # the key of the reason, where a row has no result


@dataclass(frozen=True)
class Bench:
    """What every row is given.

    Args:
        device: "cuda", or "cpu" to try the command without a GPU.
        batch: images of a call; networks also run with a quarter of it.
        quick: small networks and maps, two rounds: no measurement.
    """

    device: str = "cuda"
    batch: int = 256
    quick: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether anything here is a measurement."""
        return self.device == "cuda"


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        name: unique; its first word is the part that it belongs to.
        measure: returns what was found; what it needs it makes itself, so that a skipped row costs nothing.
        backend: value of SASA_GPU in the process that measures it: "cuda" or "triton".
        seconds: after which the row is stopped and counts as failed.
    """

    name: str
    measure: Callable[[Bench], Values]
    backend: str = "cuda"
    seconds: float = LONGEST
