"""Timing: sides take turns; kernels as replays of a CUDA graph, so that launching from Python does not count."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from sasa.speed.timing import ratios, take_turns

Step = Callable[[], object]
TURN = 0.01  # seconds that a turn lasts at least
WARMUPS = 2
ROUNDS = 15
PROFILED = 5  # calls


@dataclass(frozen=True)
class Times:
    """Milliseconds of a call of each side, round by round, and whether CUDA graphs were replayed."""

    rounds: dict[str, list[float]]
    graphs: bool

    def median(self, side: str) -> float:
        """Milliseconds of a call."""
        return statistics.median(self.rounds[side])

    def ratio(self, side: str, other: str) -> float:
        """The median of the ratios by round."""
        return statistics.median(ratios(self.rounds[side], self.rounds[other]))


def wait() -> None:
    """Wait until the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_sequence(steps: Sequence[Step]) -> Step:
    """One call of each step: with several copies of the operands, small maps do not stay in the cache."""

    def sequence() -> None:
        for step in steps:
            step()

    return sequence


def compare(steps: dict[str, Step], *, calls: int = 1, graphs: bool = False, seconds: float = 6.0) -> Times:
    """Time the sides in turns of at least `TURN` seconds, each waited for, in an order that rotates.

    Args:
        steps: by the name of the side.
        calls: that a step makes.
        graphs: replay CUDA graphs of the steps where all of them can be captured.
        seconds: for all rounds together.
    """
    for step in steps.values():  # kernels are compiled and chosen here
        for _ in range(WARMUPS):
            step()
    replays = {side: _captured(step) for side, step in steps.items()} if graphs else {}
    captured = bool(replays) and None not in replays.values()
    repeats, turns = {}, {}
    for side, step in steps.items():
        once = (captured and replays[side]) or step
        repeats[side] = max(1, round(TURN / max(1e-6, _seconds(once))))
        turns[side] = _turn(once, repeats[side])
    found = take_turns(turns, ROUNDS, seconds, 1)
    return Times({s: [1e3 * t / calls / repeats[s] for t in found[s]] for s in steps}, captured)


def _turn(step: Step, repeats: int) -> Step:
    def turn() -> None:
        for _ in range(repeats):
            step()
        wait()

    return turn


def _seconds(step: Step) -> float:
    wait()
    began = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - began


def _captured(step: Step) -> Step | None:
    """The replay of the step as a CUDA graph; None where it cannot be captured."""
    if not torch.cuda.is_available():
        return None
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        graph.replay()
        wait()
    except RuntimeError as error:
        print(f"# no CUDA graph: {(str(error).splitlines() or [''])[0]}", flush=True)
        return None
    return graph.replay


def kernel_milliseconds(step: Step, calls: int = 1) -> dict[str, float]:
    """Milliseconds that each kernel takes in a call of the step, by its name; empty where CUPTI reports nothing."""
    step()
    wait()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(PROFILED):
            step()
        wait()
    total: Counter[str] = Counter()
    for event in found.events() or ():
        if event.device_type == DeviceType.CUDA:
            total[event.name] += event.time_range.elapsed_us()
    return {name: microseconds / 1000 / PROFILED / calls for name, microseconds in total.items()}


def host_milliseconds(step: Step, calls: int = 50, rounds: int = 7) -> float:
    """Milliseconds until a call has returned, of calls that follow each other and are not waited for.

    The work of a call must be shorter on the GPU than its launch, or the queue fills up.
    """
    found = []
    for _ in range(rounds + 1):
        wait()
        began = time.perf_counter()
        for _ in range(calls):
            step()
        found.append(1000 * (time.perf_counter() - began) / calls)
    wait()
    return statistics.median(found[1:])


def peak_gigabytes(step: Step, clear: Step) -> float | None:
    """GB that a call allocates at most, beyond what is there before it; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    wait()
    clear()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    wait()
    return (torch.cuda.max_memory_allocated() - before) / 1e9
