"""The back-end "cpu": the C++ kernels (csrc/), which register themselves with the dispatcher for CPU tensors."""

from torch import Tensor

from sasa.ops import native
from sasa.ops.arguments import Calls
from sasa.ops.backends.base import Backend, Inputs, Options, dispatch
from sasa.ops.checks import check_no_forward_mode


class CpuBackend(Backend):
    """C++ on the CPU."""

    name = "cpu"
    summary = "C++ kernels for CPU tensors; what auto runs there"

    def why_not(self, inputs: Inputs | None = None, options: Options | None = None) -> str | None:
        """Accept every call on CPU tensors; without kernels the dispatcher would fall back to plain torch."""
        if inputs is not None and inputs[0].device.type != "cpu":
            return f"{inputs._fields[0]} is on {inputs[0].device}, and these kernels run on CPU tensors"
        return native.missing()

    def attend(self, calls: Calls, inputs: Inputs, options: Options) -> Tensor:
        """The dispatcher op."""
        check_no_forward_mode(inputs)
        return dispatch(calls, inputs, options)


BACKEND = CpuBackend()
