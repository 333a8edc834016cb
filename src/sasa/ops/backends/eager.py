"""The back-end "eager": tiles in plain torch, on any device; the dispatcher ops use it where there is no kernel."""

from torch import Tensor

from sasa.ops import eager, eager_block
from sasa.ops.arguments import BlockBackward, BlockForward, LocalBackward, LocalForward
from sasa.ops.backends.base import FunctionBackend, Inputs, Options


class EagerBackend(FunctionBackend):
    """Plain torch."""

    name = "eager"
    summary = "tiles in plain torch, any device and dtype; what auto runs without a kernel"

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """It always runs."""
        return None

    def local_forward(self, call: LocalForward) -> tuple[Tensor, Tensor]:
        """By tiles of the map."""
        return eager.forward(call.inputs, call.options)

    def local_backward(self, call: LocalBackward) -> tuple[Tensor | None, ...]:
        """By tiles of the map."""
        return eager.backward(call)

    def block_forward(self, call: BlockForward) -> tuple[Tensor, Tensor]:
        """By strips of blocks."""
        return eager_block.forward(call.inputs, call.options)

    def block_backward(self, call: BlockBackward) -> tuple[Tensor | None, ...]:
        """By strips of blocks."""
        return eager_block.backward(call)


BACKEND = EagerBackend()
