"""The kernels of local attention alone, CUDA beside Triton, on every layer of ResNet-50; and the GPU's limits."""

import functools
from collections.abc import Callable

import torch

from benchmarks.gpu.rows import Bench, Row, Values
from benchmarks.gpu.shapes import LAYERS, OPTIONS, Layer, Operands, operand_sets
from benchmarks.gpu.timing import Step, compare, in_sequence, kernel_milliseconds
from sasa.ops.arguments import LocalBackward, LocalForward
from sasa.ops.backends import BACKENDS
from sasa.ops.backends.base import FunctionBackend


def rows(bench: Bench) -> list[Row]:
    """The limits of the GPU, then a row for each layer."""
    layers = [Layer(16, 9, 1)] if bench.quick else LAYERS
    return [
        Row("limits", limits),
        *(Row(f"kernels {layer}", functools.partial(layer_kernels, layer=layer)) for layer in layers),
    ]


def limits(bench: Bench) -> Values:
    """Bytes a second of a copy (read and written) and FLOP a second of a bfloat16 product, random numbers."""
    elements, size = (2**30, 8192) if bench.on_gpu else (2**20, 128)
    source = torch.empty(elements, dtype=torch.bfloat16, device=bench.device).normal_()
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=bench.device).bfloat16() for _ in range(2))
    times = compare({"copy": lambda: target.copy_(source), "product": lambda: a @ b}, seconds=3)
    return {
        "copy, GB/s": 4 * elements / times.median("copy") / 1e6,
        "product, TFLOP/s": 2 * size**3 / times.median("product") / 1e9,
    }


def layer_kernels(bench: Bench, layer: Layer) -> Values:
    """Milliseconds of each pass with each back-end: replays of CUDA graphs; backward is split as the profiler says."""
    sets = operand_sets(layer, bench)
    sides = {name: BACKENDS[name if bench.on_gpu else "eager"] for name in ("cuda", "triton")}
    values: Values = {"count": layer.count}
    for direction in ("forward", "backward"):
        steps = {name: _steps(backend, sets, direction) for name, backend in sides.items()}  # pyright: ignore
        times = compare(steps, calls=len(sets), graphs=True)
        for name, step in steps.items():
            values[f"{name} {direction}, ms"] = times.median(name)
            if direction == "backward":
                shares = _shares(kernel_milliseconds(step, len(sets)))
                values |= {f"{name} {part}, ms": share * times.median(name) for part, share in shares.items()}
        values[f"{direction}, triton / cuda"] = times.ratio("triton", "cuda")
        values[f"{direction}, graphs"] = times.graphs
    return values


def _steps(backend: FunctionBackend, sets: list[Operands], direction: str) -> Step:
    return in_sequence([_launch(backend, one, direction) for one in sets])


def _launch(backend: FunctionBackend, one: Operands, direction: str) -> Callable[[], object]:
    """The launches of one pass, without autograd and the dispatcher."""
    call, functions = LocalForward(one.inputs, OPTIONS), backend.functions("local_attention")
    if direction == "forward":
        return lambda: functions.forward(call)
    _, logsumexp = functions.forward(call)
    backward = LocalBackward(one.grad_output, one.inputs, logsumexp, OPTIONS)
    return lambda: functions.backward(backward)


def _shares(kernels: dict[str, float]) -> dict[str, float]:
    """Shares of the backward pass: gradients of keys and values; of queries and tables (everything else)."""
    total = sum(kernels.values())
    if total == 0:
        return {}
    keys = sum(milliseconds for name, milliseconds in kernels.items() if "keys" in name) / total
    return {"queries": 1 - keys, "keys": keys}
