"""What is asked of the CUDA kernels beside what a run found."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.gpu.networks import name
from benchmarks.gpu.rows import FAILED, Values
from benchmarks.gpu.shapes import LAYERS

Found = dict[str, Values]


class Goal(NamedTuple):
    """A line of the table: smaller is better."""

    title: str
    goal: float
    must: float
    measured: Callable[[Found], float | None]


def value(row: str, key: str) -> Callable[[Found], float | None]:
    """A value of a row; None where it was not measured."""
    return lambda found: found.get(row, {}).get(key)


def all_layers(key: str) -> Callable[[Found], float | None]:
    """The sum over the 16 layers of ResNet-50; None where one was not measured."""

    def total(found: Found) -> float | None:
        each = [value(f"kernels {layer}", key)(found) for layer in LAYERS]
        if None in each:
            return None
        return sum(layer.count * ms for layer, ms in zip(LAYERS, each, strict=True) if ms is not None)

    return total


def worst_float32(found: Found) -> float | None:
    """The largest error of the float32 cases."""
    errors = [values.get("worst") for row, values in found.items() if row.startswith("gate float32")]
    return max((error for error in errors if error is not None), default=None)


def ratio(side: str, training: bool, compiled: bool, part: int = 1, key: str = "ratio"):
    """Our network over ResNet-50, with the CUDA kernels."""
    return value(name("cuda", side, training, compiled, part), key)


GOALS = (
    Goal("all 16 layers, forward, ms", 2.0, 3.5, all_layers("cuda forward, ms")),
    Goal("all 16 layers, queries' and tables' gradients, ms", 3.0, 5.7, all_layers("cuda queries, ms")),
    Goal("all 16 layers, keys' and values' gradients, ms", 3.5, 6.4, all_layers("cuda keys, ms")),
    Goal("stem, forward + backward, ms", 3, 6, value("stem forward + backward, cuda", "attention, ms")),
    Goal("full attention, training, compiled", 0.95, 1.25, ratio("full", True, True)),
    Goal("full attention, inference, compiled", 0.88, 1.15, ratio("full", False, True)),
    Goal("convolutional stem, training, compiled", 0.95, 1.25, ratio("conv-stem", True, True)),
    Goal("convolutional stem, inference, compiled", 0.9, 1.15, ratio("conv-stem", False, True)),
    Goal("full attention, training, eager, batch / 4", 1.0, 1.3, ratio("full", True, False, 4)),
    Goal("full attention, inference, eager, batch / 4", 1.0, 1.3, ratio("full", False, False, 4)),
    Goal("launching the operator, ms", 0.02, 0.05, value("launching, cuda", "operator, ms")),
    Goal("launching it with backward, ms", 0.05, 0.1, value("launching, cuda", "operator with backward, ms")),
    Goal("peak memory of the training step", 1.05, 1.25, ratio("full", True, True, 1, "memory, ratio")),
    Goal("float32 without TF32, worst error", 2e-6, 1e-5, worst_float32),
)


def table(found: Found) -> str:
    """The goals in Markdown; then the rows that failed."""
    lines = ["| | measured | goal | must | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        measured = goal.measured(found)
        if measured is None:
            lines.append(f"| {goal.title} | not measured | {goal.goal:g} | {goal.must:g} | |")
            continue
        verdict = "goal" if measured <= goal.goal else "must" if measured <= goal.must else "missed"
        lines.append(f"| {goal.title} | {measured:.3g} | {goal.goal:g} | {goal.must:g} | {verdict} |")
    failures = [f"failed: {row}: {values[FAILED]}" for row, values in found.items() if FAILED in values]
    return "\n".join([*lines, "", *failures])
