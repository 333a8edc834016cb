"""The gate: float32 without TF32, the output and every gradient beside the float64 reference."""

import functools
from collections.abc import Callable

import torch
from gpu_run import Line, Row
from gpu_shapes import GROUP_MAPS, OPTIONS, Bench, title
from torch import Tensor

from sasa.ops import block_attention, local_attention
from sasa.speed.workloads import HEADS, WINDOW

GOAL, BOUND = 1e-5, 1e-4  # relative L2
NAMES = ("output", "query", "key", "value", "rel_row", "rel_col")
STEM_NAMES = ("output", "image", "w_query", "w_key", "w_value", "rel_row", "rel_col")
LAYOUTS = {"zeros": torch.channels_last, "mask": torch.contiguous_format}  # each kind of padding with one of them


def gradients(bench: Bench) -> list[Row]:
    """float32 without TF32, the output and every gradient beside the float64 reference: relative L2."""
    maps = GROUP_MAPS[2:] if bench.quick else (*GROUP_MAPS, (96, 23))
    layers = [
        Row(
            {"map": title(channels, side), "padding": padding, "layout": str(layout).removeprefix("torch.")},
            functools.partial(layer_errors, bench.device.name, channels, side, padding, layout),
        )
        for channels, side in maps
        for padding, layout in LAYOUTS.items()
    ]
    stem = Row({"map": "stem, 66 x 70 x 3", "layout": "channels_last"}, lambda: stem_errors(bench.device.name))
    return [*layers, stem]


def layer_errors(where: str, channels: int, side: int, padding: str, layout: torch.memory_format) -> list[Line]:
    """The line of a map: every error, and the worst."""
    random = numbers(side)
    maps = [random(2, channels, side, side).contiguous(memory_format=layout) for _ in range(4)]
    rels = [random(HEADS, WINDOW, channels // HEADS // 2) for _ in range(2)]
    attention = functools.partial(local_attention, **OPTIONS, padding=padding)
    return compared(attention, [*maps[:3], *rels], maps[3], where, NAMES)


def stem_errors(where: str) -> list[Line]:
    """The line of the stem's attention: 64 channels of blocks of 4 x 4 pixels; sides that are no multiples of 4."""
    random, channels, pixels = numbers(4), 64, 16
    shapes = [(2, 3, 66, 70), (channels, 3), (channels, 3), (pixels, channels, 3), *2 * [(HEADS, 7, 4)]]
    image, *weights = (random(*shape) for shape in shapes)
    image = image.contiguous(memory_format=torch.channels_last)
    attention = functools.partial(block_attention, block_size=4, num_heads=HEADS)
    return compared(attention, [image, *weights], random(2, channels, 66, 70), where, STEM_NAMES)


def numbers(seed: int) -> Callable[..., Tensor]:
    """A function of a shape: 0.7 * normal."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: 0.7 * torch.randn(*shape, generator=generator)


def compared(
    attention: Callable[..., Tensor], inputs: list[Tensor], grad_output: Tensor, where: str, names: tuple[str, ...]
) -> list[Line]:
    """A line: the error of the output and of the gradient of each input, and the worst."""
    want = results(functools.partial(attention, backend="reference"), inputs, grad_output, torch.float64, "cpu")
    got = results(attention, inputs, grad_output, torch.float32, where)
    found = [relative(g, w) for g, w in zip(got, want, strict=True)]
    return [{**dict(zip(names, found, strict=True)), "worst": max(found)}]


def relative(got: Tensor, want: Tensor) -> float:
    """Relative L2 difference; infinite where a number is none."""
    error = ((got.double() - want).norm() / want.norm()).item()
    return error if error == error else float("inf")


def results(
    attention: Callable[..., Tensor], inputs: list[Tensor], grad_output: Tensor, dtype: torch.dtype, where: str
) -> list[Tensor]:
    """The output and the gradients of all inputs, on the CPU."""
    tensors = [tensor.to(where, dtype).requires_grad_() for tensor in inputs]
    output = attention(*tensors)
    grads = torch.autograd.grad(output, tensors, grad_output.to(where, dtype))
    return [tensor.detach().cpu() for tensor in (output, *grads)]


def failures(lines: list[Line]) -> list[str]:
    """What the gate does not let pass: an error beyond the bound, and a row without one.

    >>> failures([{"map": "a", "worst": 1e-6}, {"map": "b", "worst": 1e-3}, {"map": "c", "note": "failed: no memory"}])
    ['b: 1.0e-03 is more than 1e-04', 'c: failed: no memory']
    """
    found = []
    for line in lines:
        name = ", ".join(str(line[word]) for word in ("map", "padding") if word in line)
        worst = line.get("worst")
        if worst is None:
            found.append(f"{name}: {line.get('note', 'not measured')}")
        elif not worst <= BOUND:
            found.append(f"{name}: {worst:.1e} is more than {BOUND:.0e}")
    return found
