"""The lines of the acceptance table of the CPU kernels: which there are, in which order, and what each must reach."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from sasa.errors import UsageError
from sasa.speed.workloads import BASELINE

SHARE, FACTOR, LARGEST = "share", "factor", "largest"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: "GROUP/SIDE"; the group measures, the side is ours.
        title: for people.
        goal, must: what the value should and what it must reach; None where it is only reported.
        baseline: the other side of the group.
        kind: "share" (ours / baseline, to be small), "factor" (baseline / ours, to be large) or "largest" (the
            largest of our numbers, to be small).
    """

    name: str
    title: str
    goal: float | None
    must: float | None = None
    baseline: str = BASELINE
    kind: str = SHARE

    @property
    def group(self) -> str:
        """What measures it: the name of a `Group`."""
        return self.name.partition("/")[0]

    @property
    def side(self) -> str:
        """Our side of the group."""
        return self.name.partition("/")[2]


NETWORKS = {"full": "full attention", "convstem": "conv-stem + attention"}
DEMO, TWIN = "demo", "twin"  # the sides of its comparisons


def _network_rows(group: str, title: str, **limits: tuple[float, float | None]) -> list[Row]:
    return [Row(f"{group}/{side}", f"{NETWORKS[side]} / resnet50, {title}", *limits[side]) for side in limits]


def _demo_row(group: str, title: str) -> Row:
    return Row(f"{group}/{DEMO}", f"the demo's network / its convolutional twin, {title}", 0.9, 1.05, TWIN)


# In the order in which they are measured: what matters most comes first. The compiled ones come last, because they
# compile for minutes, and whoever stops the run, or gives it too little time, has the others.
ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        *_network_rows("inference", "inference", full=(0.85, 0.92), convstem=(0.86, 1.00)),
        *_network_rows("training", "training step", full=(0.92, 1.00), convstem=(0.86, 1.10)),
        *_network_rows("avx2-inference", "inference, AVX2", full=(0.85, 0.92), convstem=(1.0, None)),
        *_network_rows("avx2-training", "training step, AVX2", full=(0.92, 1.00), convstem=(1.0, None)),
        _demo_row("demo-inference", "inference"),
        _demo_row("demo-training", "training step"),
        _demo_row("avx2-demo-inference", "inference, AVX2"),
        _demo_row("avx2-demo-training", "training step, AVX2"),
        Row("cores/cores", "all attention cores / the 3 x 3 convolutions, forward", 0.35, 0.6),
        Row("operator/ours", "operator against unfold, forward", 100, 50, "unfold", FACTOR),
        Row("operator-training/ours", "operator against unfold, forward + backward", 60, 30, "unfold", FACTOR),
        *_network_rows("memory", "peak memory of a training step", full=(1.0, 1.3), convstem=(1.0, 1.3)),
        Row("agreement/ours", "float32 against the float64 reference, worst case", 2e-6, 1e-5, "", LARGEST),
        *_network_rows("folded", "inference, batch norm folded", full=(0.88, None), convstem=(0.88, None)),
        *_network_rows("batch-1", "inference, batch 1", full=(0.95, None), convstem=(0.95, None)),
        *_network_rows("bfloat16", "inference, bfloat16", full=(0.95, None), convstem=(0.95, None)),
        *_network_rows("compiled-inference", "inference, both compiled", full=(0.88, None), convstem=(0.88, None)),
        *_network_rows("compiled-training", "training step, both compiled", full=(0.88, None), convstem=(0.88, None)),
    )
}


def groups_of(rows: Sequence[Row]) -> list[str]:
    """The groups that measure these rows, each once, in their order."""
    return list(dict.fromkeys(row.group for row in rows))


def choose(patterns: Sequence[str] | None = None) -> list[Row]:
    """Rows whose name or group matches one of the shell patterns, in the order of the table; all without any.

    Raises:
        UsageError: a pattern that matches nothing.

    >>> [row.name for row in choose(["training", "cores/*"])]
    ['training/full', 'training/convstem', 'cores/cores']
    """
    chosen = set(ROWS) if not patterns else set()
    for pattern in patterns or ():
        matched = {
            row.name
            for row in ROWS.values()
            if fnmatch.fnmatchcase(row.name, pattern) or fnmatch.fnmatchcase(row.group, pattern)
        }
        if not matched:
            groups = ", ".join(groups_of(list(ROWS.values())))
            raise UsageError(f"--rows {pattern!r} matches no row of the table; groups: {groups}")
        chosen |= matched
    return [row for name, row in ROWS.items() if name in chosen]
