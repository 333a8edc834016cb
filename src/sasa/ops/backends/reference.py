"""The back-end "reference": the equations in plain torch, which autograd differentiates."""

from torch import Tensor

from sasa.ops import reference
from sasa.ops.arguments import BlockInputs, BlockOptions, LocalInputs, LocalOptions
from sasa.ops.backends.base import Backend, Inputs, Options


class ReferenceBackend(Backend):
    """The equations in plain torch, with which every other back-end is compared."""

    name = "reference"
    summary = "the equation in plain torch, any device and dtype; the judge, slow"

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """It always runs."""
        return None

    def local_attention(self, inputs: LocalInputs, options: LocalOptions) -> Tensor:
        """Differentiable to any order, in both modes."""
        return reference.local_attention(inputs, options)[0]

    def block_attention(self, inputs: BlockInputs, options: BlockOptions) -> Tensor:
        """Differentiable to any order, in both modes."""
        return reference.block_attention(inputs, options)[0]


BACKEND = ReferenceBackend()
