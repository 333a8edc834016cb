"""The rows of the acceptance table: their order, and the goal and the limit of each."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cpu.workloads import BASELINE
from sasa.errors import UsageError

SHARE, FACTOR, LARGEST = "share", "factor", "largest"


@dataclass(frozen=True)
class AcceptanceRow:
    """One row of the table.

    Args:
        name: "COMPARISON/SIDE", where the side is ours.
        title: what the table prints.
        goal, must: the value to aim at and the value to reach; None where it is only reported.
        baseline: the other side of the comparison.
        kind: `SHARE` (ours / baseline, small is good), `FACTOR` (baseline / ours, large is good) or `LARGEST` (the
            largest of our values, small is good).
    """

    name: str
    title: str
    goal: float | None
    must: float | None = None
    baseline: str = BASELINE
    kind: str = SHARE

    @property
    def comparison(self) -> str:
        """The name of the comparison that measures it."""
        return self.name.partition("/")[0]

    @property
    def side(self) -> str:
        """The name of our side."""
        return self.name.partition("/")[2]


NETWORKS = {"full": "full attention", "convstem": "conv-stem + attention"}
DEMO, TWIN = "demo", "twin"  # sides of the comparisons with the demo's network


def _network_rows(
    comparison: str, title: str, full: tuple[float, float | None], convstem: tuple[float, float | None]
) -> list[AcceptanceRow]:
    limits = {"full": full, "convstem": convstem}
    return [
        AcceptanceRow(f"{comparison}/{side}", f"{network} / resnet50, {title}", *limits[side])
        for side, network in NETWORKS.items()
    ]


def _demo_row(comparison: str, title: str) -> AcceptanceRow:
    name = f"{comparison}/{DEMO}"
    return AcceptanceRow(name, f"the demo's network / its convolutional twin, {title}", 0.9, 1.05, TWIN)


# In the order of measuring: the most important first, and last what compiles for minutes.
ROWS: dict[str, AcceptanceRow] = {
    row.name: row
    for row in (
        *_network_rows("inference", "inference", (0.85, 0.92), (0.86, 1.00)),
        *_network_rows("training", "training step", (0.92, 1.00), (0.86, 1.10)),
        *_network_rows("avx2-inference", "inference, AVX2", (0.85, 0.92), (1.0, None)),
        *_network_rows("avx2-training", "training step, AVX2", (0.92, 1.00), (1.0, None)),
        _demo_row("demo-inference", "inference"),
        _demo_row("demo-training", "training step"),
        _demo_row("avx2-demo-inference", "inference, AVX2"),
        _demo_row("avx2-demo-training", "training step, AVX2"),
        AcceptanceRow("cores/cores", "all attention cores / the 3 x 3 convolutions, forward", 0.35, 0.6),
        AcceptanceRow("operator/ours", "operator against unfold, forward", 100, 50, "unfold", FACTOR),
        AcceptanceRow(
            "operator-training/ours", "operator against unfold, forward + backward", 60, 30, "unfold", FACTOR
        ),
        *_network_rows("memory", "peak memory of a training step", (1.0, 1.3), (1.0, 1.3)),
        AcceptanceRow("agreement/ours", "float32 against the float64 reference, worst case", 2e-6, 1e-5, "", LARGEST),
        *_network_rows("folded", "inference, batch norm folded", (0.88, None), (0.88, None)),
        *_network_rows("batch-1", "inference, batch 1", (0.95, None), (0.95, None)),
        *_network_rows("bfloat16", "inference, bfloat16", (0.95, None), (0.95, None)),
        *_network_rows("compiled-inference", "inference, both compiled", (0.88, None), (0.88, None)),
        *_network_rows("compiled-training", "training step, both compiled", (0.88, None), (0.88, None)),
    )
}


def comparisons_of(rows: Sequence[AcceptanceRow]) -> list[str]:
    """List the comparisons that measure the rows, without repetition, in order."""
    return list(dict.fromkeys(row.comparison for row in rows))


def choose(patterns: Sequence[str] = ()) -> list[AcceptanceRow]:
    """Choose rows whose name or comparison matches a shell pattern, in the order of the table; all without patterns.

    Raises:
        UsageError: a pattern matches nothing.

    >>> [row.name for row in choose(["training", "cores/*"])]
    ['training/full', 'training/convstem', 'cores/cores']
    """
    chosen = set() if patterns else set(ROWS)
    for pattern in patterns:
        matched = {
            row.name
            for row in ROWS.values()
            if fnmatch.fnmatchcase(row.name, pattern) or fnmatch.fnmatchcase(row.comparison, pattern)
        }
        if not matched:
            names = ", ".join(comparisons_of(list(ROWS.values())))
            raise UsageError(f"{pattern!r} matches no row of the table; comparisons: {names}")
        chosen |= matched
    return [row for name, row in ROWS.items() if name in chosen]
