"""How a call is timed on a GPU: replays of a CUDA graph, so that Python's launches are not what is measured."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sasa.speed import Setting, spread, take_turns
from sasa.speed.timing import Step

TURN = 0.01  # seconds
WARMUPS = 2
GRAPH = "graph"
COPIES = 8  # at most, of a step's tensors


class Cycle:
    """A step for each copy of the tensors, one after the other: small maps would stay in the cache otherwise."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps, self.calls = steps, len(steps)

    def __call__(self) -> None:
        """Once with each copy: so many calls."""
        for step in self.steps:
            step()


@dataclass(frozen=True)
class Timed:
    """Times of a side.

    Args:
        milliseconds: of a call, by round.
        host: milliseconds until the host has launched a call; it waits for nothing meanwhile.
        how: "graph" where replays of a CUDA graph were timed, else "launches", with the reason where there is one.
    """

    milliseconds: list[float]
    host: float
    how: str

    @property
    def median(self) -> float:
        """Of the milliseconds."""
        return spread(self.milliseconds).median


class Device:
    """Where it is measured: how to wait for it, how to time a call, and how much memory a call takes."""

    def __init__(self, name: str) -> None:
        self.name, self.cuda = name, name == "cuda"

    def settings(self) -> None:
        """cuDNN tries its algorithms, float32 products are exact, and a compiled function stays compiled or fails.

        Each process measures the choices of compiled kernels itself: those of `gpu_warm` were not alone on the GPU.
        """
        torch.set_float32_matmul_precision("highest")
        if not self.cuda:
            return
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        torch.backends.cudnn.benchmark = True
        dynamo.fail_on_recompile_limit_hit = True
        inductor.autotune_local_cache = False

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def release(self) -> None:
        """Give back what the last row held."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def copies(self, moved: int) -> int:
        """How many copies of tensors of so many bytes are three times the cache."""
        if not self.cuda:
            return 1
        cache = torch.cuda.get_device_properties().L2_cache_size
        return min(COPIES, max(1, -(-3 * cache // moved)))

    def seconds(self, step: Step) -> float:
        """Of one call, waited for."""
        self.wait()
        began = time.perf_counter()
        step()
        self.wait()
        return time.perf_counter() - began

    def compare(self, steps: dict[str, Step], setting: Setting, graphs: bool = False) -> dict[str, Timed]:
        """Times of each side: in turns that last `TURN`, waited for, in an order that moves on."""
        turns: dict[str, Step] = {}
        calls, hosts, hows = {}, {}, {}
        for side, step in steps.items():
            for _ in range(WARMUPS):  # kernels are compiled and chosen
                step()
            hosts[side] = self.host(step)
            replay, hows[side] = self.captured(step) if graphs and self.cuda else (step, "launches")
            replay()
            count = max(1, round(TURN / max(1e-6, self.seconds(replay))))
            calls[side] = count * getattr(step, "calls", 1)
            turns[side] = self.turn(replay, count)
        times = take_turns(turns, setting.rounds, setting.seconds, 1)
        return {s: Timed([1000 * t / calls[s] for t in times[s]], 1000 * hosts[s], hows[s]) for s in steps}

    def turn(self, step: Step, count: int) -> Step:
        """So many calls, then waited for."""

        def turn() -> None:
            for _ in range(count):
                step()
            self.wait()

        return turn

    def host(self, step: Step) -> float:
        """Seconds until a call is launched, of a device that has nothing to do: the median of five."""
        found = []
        for _ in range(5):
            self.wait()
            began = time.perf_counter()
            step()
            found.append(time.perf_counter() - began)
        self.wait()
        return statistics.median(found) / getattr(step, "calls", 1)

    def captured(self, step: Step) -> tuple[Step, str]:
        """The replay of the step as a CUDA graph; the step itself, and why, where it cannot be captured."""
        try:
            side: Any = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARMUPS):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            self.release()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            graph.replay()
            self.wait()
        except Exception as reason:
            self.wait()
            said = (str(reason).splitlines() or [""])[0]
            return step, f"launches: no graph, {type(reason).__name__}: {said[:60]}"
        return graph.replay, GRAPH

    def peak(self, step: Step, clear: Callable[[], object] = lambda: None) -> float | None:
        """GB that a call has at most beyond what is there before; `clear` drops what an earlier call left."""
        if not self.cuda:
            return None
        if isinstance(step, Cycle):
            step = step.steps[0]
        self.wait()
        clear()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e9
