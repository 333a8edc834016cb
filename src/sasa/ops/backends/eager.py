"""The back-end "eager": tiles in plain torch, on any device; the dispatcher ops use it where there is no kernel."""

from sasa.ops import eager, eager_block
from sasa.ops.backends.base import FunctionBackend, Inputs, Options


class EagerBackend(FunctionBackend):
    """Plain torch, by tiles of the map or by strips of blocks."""

    name = "eager"
    summary = "tiles in plain torch, any device and dtype; what auto runs without a kernel"
    local = eager
    block = eager_block

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """It always runs."""
        return None


BACKEND = EagerBackend()
