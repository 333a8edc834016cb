"""What was asked of the GPU kernels beside what a run measured."""

from typing import Any

from gpu_networks import INFERENCE, TRAINING
from gpu_operator import BOTH, FLEX, UNFOLD
from gpu_run import Line

from sasa.speed.acceptance import Result
from sasa.speed.report import value
from sasa.speed.rows import FACTOR, LARGEST, SHARE, Row

NETWORK = "full attention / resnet50, {}, compiled, batch {}"


def acceptance(found: dict[str, Any], batch: int) -> list[Result]:
    """The asked rows, with what the parts in `found` say; without a value where a part was not run.

    Args:
        found: lines by part.
        batch: the large one.
    """
    training, inference = (network(found, passed, batch) for passed in (TRAINING, INFERENCE))
    return [
        result(NETWORK.format("training step", batch), training.get("ratio"), 0.88, 1.3, SHARE, training),
        result(NETWORK.format("inference", batch), inference.get("ratio"), 0.88, 1.3, SHARE, inference),
        result(f"operator against {FLEX}, {BOTH}", *worst(found, FLEX, 5, 2)),
        result(f"operator against {UNFOLD}, {BOTH}", *worst(found, UNFOLD, 20, 10)),
        result("peak memory of that training step / resnet50's", training.get("memory, ratio"), 1.0, 1.3, SHARE, {}),
        gradient(found),
    ]


def result(title: str, measured: float | None, goal: float, must: float, kind: str, line: Line) -> Result:
    """One row. `line` has the quartiles, where there are some, and a note."""
    row = Row("gpu/ours", title, goal, must, kind=kind)
    return Result(row, value=measured, lower=line.get("from"), upper=line.get("to"), note=line.get("note") or "")


def network(found: dict[str, Any], passed: str, batch: int) -> Line:
    """The line of full attention, compiled; empty without one."""
    wanted = {"pass": passed, "compiled": True, "batch": batch, "network": "full"}
    return _first(found.get("networks", []), wanted)


def worst(found: dict[str, Any], other: str, goal: float, must: float) -> tuple[float | None, float, float, str, Line]:
    """What `result` needs of the map on which the operator gains least."""
    lines = [line for line in found.get("operator", []) if (line["pass"], line["beside"]) == (BOTH, other)]
    measured = [line for line in lines if line.get("times faster") is not None]
    if not measured:
        return None, goal, must, FACTOR, {}
    least = min(measured, key=lambda line: line["times faster"])
    note = f"the least of {len(measured)} of {len(lines)} maps: {least['map']}"
    return least["times faster"], goal, must, FACTOR, {**least, "note": note}


def gradient(found: dict[str, Any]) -> Result:
    """The worst error of all; infinite where a row has none."""
    lines = found.get("gradients") or []
    largest = max((line.get("worst", float("inf")) for line in lines), default=None)
    return result("float32 against the float64 reference, worst", largest, 1e-5, 1e-4, LARGEST, {})


def table(results: list[Result]) -> list[Line]:
    """A line a row, to be printed and saved."""
    return [
        {
            "asked": one.row.title,
            "measured": value(one.value, one.row.kind),
            "quartiles": "-" if one.lower is None else f"{one.lower:.3g} to {one.upper:.3g}",
            "goal": value(one.row.goal, one.row.kind),
            "must": value(one.row.must, one.row.kind),
            "verdict": one.verdict,
            "note": one.note,
        }
        for one in results
    ]


def _first(lines: list[Line], wanted: Line) -> Line:
    return next((line for line in lines if wanted.items() <= line.items()), {})
