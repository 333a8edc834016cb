"""The Triton kernels of local attention by themselves: beside their prediction, and beside other tilings."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_device import Cycle
from gpu_gradients import relative
from gpu_run import Line, Row, first_line
from gpu_shapes import GROUP_MAPS, Bench, Operands, cost, operand_sets, title

from sasa.ops.arguments import LocalBackward, LocalInputs, LocalOptions
from sasa.speed.timing import Step
from sasa.speed.workloads import HEADS, WINDOW

# Forward and both backward kernels, as benchmarks/README.md predicts them for an H200: batch 256, milliseconds.
PREDICTED = {(64, 56): (0.37, 1.35), (128, 28): (0.12, 0.45), (256, 14): (0.05, 0.16), (512, 7): (0.03, 0.08)}
KEEP = 0.03  # a tiling must be so much faster than the rule's to stand in the table
TOLERANCE = 0.01  # relative L2 between two tilings in bfloat16: only the order of sums differs
NO_GPU: Line = {"note": "needs a GPU"}
PASSES = {"forward": "forward", "queries": "backward", "keys": "backward"}  # of each kernel


def kernels(bench: Bench) -> list[Row]:
    """The kernels by themselves beside what was predicted for an H200 and a batch of 256."""
    return [
        Row(
            {"map": title(*shape)}, functools.partial(beside_prediction, bench, *shape) if bench.device.cuda else no_gpu
        )
        for shape in PREDICTED
    ]


def no_gpu() -> list[Line]:
    """The line of a row that cannot be measured here."""
    return [NO_GPU]


def beside_prediction(bench: Bench, channels: int, side: int) -> list[Line]:
    """Forward, and backward: a line each."""
    batch, sets = bench.setting.batch, operand_sets(bench, channels, side)
    steps: dict[str, Step] = {name: cycle(name, sets) for name in ("forward", "backward")}
    times = bench.device.compare(steps, bench.setting, graphs=True)
    return [
        {
            "map": title(channels, side),
            "kernels": name,
            "ms": times[name].median,
            "predicted": predicted * batch / 256,
            "host ms": times[name].host,
            **bench.ceilings.columns(*cost(batch, channels, side, name), times[name].median),
            "timed": times[name].how,
        }
        for name, predicted in zip(steps, PREDICTED[channels, side], strict=True)
    ]


def cycle(passed: str, sets: list[Operands]) -> Cycle:
    """The launches of a pass on each set of operands."""
    return Cycle([launches(one)[passed] for one in sets])


def launches(one: Operands) -> dict[str, Callable[[], Any]]:
    """The launches of forward and of backward, without a dispatcher; they give what the kernels computed."""
    from sasa.ops.gpu import local_launch

    inputs, options = LocalInputs(*one.maps, *one.rels), LocalOptions(WINDOW, HEADS, "zeros", 1.0)
    _, logsumexp = local_launch.forward(inputs, options)
    return {
        "forward": lambda: local_launch.forward(inputs, options),
        "backward": lambda: local_launch.backward(LocalBackward(one.grad, inputs, logsumexp, options)),
    }


def tune(bench: Bench) -> list[Row]:
    """Other tilings beside the rule's, kernel by kernel: prints the lines that TABLE in tuning.py shall have."""
    return [
        Row(
            {"kernel": kernel, "channels": channels // HEADS},
            functools.partial(best_tiling, bench, channels, side, kernel) if bench.device.cuda else no_gpu,
        )
        for channels, side in GROUP_MAPS
        for kernel in PASSES
    ]


def best_tiling(bench: Bench, channels: int, side: int, kernel: str) -> list[Line]:
    """The rule's time, the best one's, and the table's line where that is worth one."""
    from sasa.ops.gpu import tuning

    major, minor = torch.cuda.get_device_capability()
    head_dim = channels // HEADS
    key = (kernel, head_dim, WINDOW, 2, 10 * major + minor, False)
    rule, sets = tuning.tiling(*key), operand_sets(bench, channels, side)
    want = launches(sets[0])[PASSES[kernel]]()
    times: dict[Any, float] = {}
    left_out: dict[str, str] = {}
    for cut in {rule: None, **dict.fromkeys(candidates(kernel, head_dim))}:
        try:
            times[cut] = time_of(bench, sets, kernel, key, cut, want)
        except Exception as reason:  # too much shared memory, say, or other numbers
            left_out[str(cut)] = first_line(reason)
            print(f"# {key} {cut}: {left_out[str(cut)]}", flush=True)
    best = min(times, key=times.__getitem__)
    entry = f"{key}: {best}," if times[best] < (1 - KEEP) * times[rule] else None
    if entry:
        print(f"    {entry}", flush=True)
    counted = {"tilings": len(times), "left out": len(left_out)}
    return [{"rule, ms": times[rule], "best, ms": times[best], **counted, "TABLE": entry}]


def time_of(bench: Bench, sets: list[Operands], kernel: str, key: tuple[Any, ...], cut: Any, want: Any) -> float:
    """Milliseconds of the kernel's pass with the tiling `cut`, which must compute what the rule's does."""
    from sasa.ops.gpu import local_launch

    before, local_launch.tiling = local_launch.tiling, functools.partial(instead, key, cut)
    try:
        got = launches(sets[0])[PASSES[kernel]]()
        error = max(relative(g, w.double()) for g, w in zip(got, want, strict=True) if w is not None)
        if not error <= TOLERANCE:
            raise ValueError(f"differs from the rule's by {error:.1e}: not timed")
        step = cycle(PASSES[kernel], sets)
        return bench.device.compare({"": step}, bench.setting, graphs=True)[""].median
    finally:
        local_launch.tiling = before


def instead(key: tuple[Any, ...], cut: Any, *arguments: Any) -> Any:
    """The tiling `cut` for the arguments `key`, and the rule's for all others."""
    from sasa.ops.gpu import tuning

    return cut if arguments == key else tuning.tiling(*arguments)


def candidates(kernel: str, head_dim: int) -> Iterator[Any]:
    """Tilings around the rule's: keys of a step, width of a tile, groups and warps of a program."""
    from sasa.ops.gpu.tuning import QUERIES, Tiling, _cut

    heads = 2 if head_dim <= 8 else 1
    for most in (16, 32, 64, 128):
        for width in (2, 4):
            _, columns, rows, steps = _cut(width, WINDOW, most)
            for groups, warps in ((2, 4), (4, 4), (4, 8)):
                tile = (QUERIES // width, width)
                yield Tiling(tile, columns, rows, steps, heads, groups // heads, warps, 1, kernel == "queries")
