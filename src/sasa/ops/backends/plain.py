"""The back-ends in plain torch: "reference", the equations, and "eager", tiles of the map or strips of blocks."""

from torch import Tensor

from sasa.ops import eager, eager_block, reference
from sasa.ops.arguments import Calls
from sasa.ops.backends.base import Backend, FunctionBackend, Inputs, Options
from sasa.ops.precision import in_layout_of
from sasa.ops.register import Functions


class ReferenceBackend(Backend):
    """The equations, with which every other back-end is compared; autograd differentiates them to any order."""

    name = "reference"
    summary = "the equation in plain torch, any device and dtype; the judge, slow"

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """It always runs."""
        return None

    def attend(self, calls: Calls, inputs: Inputs, options: Options) -> Tensor:
        """Differentiable in both modes.

        In the layout of the first input: torch's batch norm has wrong gradients for one image with other strides.
        """
        return in_layout_of(inputs[0], getattr(reference, calls.name)(inputs, options)[0])


class EagerBackend(FunctionBackend):
    """Tiles of the map or strips of blocks; the dispatcher ops use it where there is no kernel."""

    name = "eager"
    summary = "tiles in plain torch, any device and dtype; what auto runs without a kernel"

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """It always runs."""
        return None

    def functions(self, name: str) -> Functions:
        """The module of the operator."""
        return eager if name == "local_attention" else eager_block


REFERENCE, EAGER = ReferenceBackend(), EagerBackend()
