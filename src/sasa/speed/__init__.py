"""Time a network beside its convolutional twin, for `sasa bench`.

`sasa.speed.pair` needs the extra `train`; the rest needs torch only.
"""

from sasa.speed.timing import Spread, Step, Stop, StopMeasuringError, ratios, spread, take_turns, torch_threads
from sasa.speed.twin import convolutional_twin

__all__ = [
    "Spread",
    "Step",
    "Stop",
    "StopMeasuringError",
    "convolutional_twin",
    "ratios",
    "spread",
    "take_turns",
    "torch_threads",
]
