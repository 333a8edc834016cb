"""Time a network beside its convolutional twin: what `sasa bench` runs."""

from sasa.speed.pair import PASSES, Pair, PairTimes, pair_of_network, pair_of_run, time_pair
from sasa.speed.stop import Stop, StopMeasuringError
from sasa.speed.timing import Spread, Step, ratios, spread, take_turns, torch_threads
from sasa.speed.twin import convolutional_twin

__all__ = [
    "PASSES",
    "Pair",
    "PairTimes",
    "Spread",
    "Step",
    "Stop",
    "StopMeasuringError",
    "convolutional_twin",
    "pair_of_network",
    "pair_of_run",
    "ratios",
    "spread",
    "take_turns",
    "time_pair",
    "torch_threads",
]
