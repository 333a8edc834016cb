"""Errors of the float32 operator relative to the float64 reference, over random shapes and options."""

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sasa.ops import local_attention

LARGEST = 2_000_000  # elements of the reference's unfolded keys and values
NAMES = ("query", "key", "value", "rel_row", "rel_col")


@dataclass(frozen=True)
class Case:
    """Shapes and options of one call of `sasa.ops.local_attention`."""

    batch: int
    heads: int
    head_dim: int
    value_dim: int
    height: int
    width: int
    window: int
    padding: str
    terms: str  # "both", "content" or "relative"
    scale: float
    channels_last: bool

    def shapes(self) -> list[tuple[int, ...] | None]:
        """Shapes of query, key, value, rel_row and rel_col; None for those that `terms` leaves out."""
        size = (self.height, self.width)
        rel = None if self.terms == "content" else (self.heads, self.window, self.head_dim // 2)
        query = (self.batch, self.heads * self.head_dim, *size)
        value = (self.batch, self.heads * self.value_dim, *size)
        return [query, None if self.terms == "relative" else query, value, rel, rel]

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the operator."""
        return {
            "kernel_size": self.window,
            "num_heads": self.heads,
            "padding": self.padding,
            "scale": self.scale,
            "content": self.terms != "relative",
        }


def random_case(choose: random.Random) -> Case:
    """Draw a small case: also 1 x N maps, maps smaller than the window, odd head and value dimensions."""
    window, heads = choose.choice((1, 3, 5, 7, 9, 11)), choose.choice((1, 2, 3, 4, 8))
    head_dim = choose.choice((2, 4, 6, 8, 8, 16, 32, 64))
    value_dim = head_dim if choose.random() < 0.7 else choose.randint(1, 20)
    batch, height, width = choose.choice((1, 2, 3)), choose.randint(1, 24), choose.randint(1, 24)
    while batch * heads * (head_dim + value_dim) * height * width * window**2 > LARGEST:
        if batch > 1:
            batch -= 1
        elif height >= width:
            height = (height + 1) // 2
        else:
            width = (width + 1) // 2
        if height == width == 1:
            break
    return Case(
        batch, heads, head_dim, value_dim, height, width, window,
        padding=choose.choice(("zeros", "mask")),
        terms=choose.choice(("both", "both", "content", "relative")),
        scale=choose.choice((1.0, 1.0, 0.5, head_dim**-0.5)),
        channels_last=choose.random() < 0.5,
    )  # fmt: skip


def worst_error(case: Case, seed: int) -> tuple[float, str]:
    """Compute the largest relative L2 error of the output and of all gradients, and the name of that tensor.

    Inputs are 0.7 * normal in float32, converted to float64 for the reference. The error of a gradient that is zero
    (softmax over a single key) is relative to the gradient of the output.
    """
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    tensors: list[Tensor | None] = []
    for shape in case.shapes():
        tensor = None if shape is None else 0.7 * torch.randn(shape, generator=generator)
        maps = tensor is not None and tensor.dim() == 4
        tensors.append(tensor.contiguous(memory_format=layout) if maps else tensor)
    value = tensors[2]
    assert value is not None
    grad_output = 0.7 * torch.randn(value.shape, generator=generator)
    got = _output_and_gradients(tensors, grad_output, {**case.options(), "backend": "auto"})
    exact = [None if t is None else t.double() for t in tensors]
    want = _output_and_gradients(exact, grad_output.double(), {**case.options(), "backend": "reference"})
    size = grad_output.double().norm().item()
    errors = [
        (_relative_error(one, expected, size), name)
        for one, expected, name in zip(got, want, ("output", *NAMES), strict=True)
        if one is not None and expected is not None
    ]
    return max(errors)


def _output_and_gradients(tensors: list[Tensor | None], grad: Tensor, options: dict[str, Any]) -> list[Tensor | None]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = local_attention(*leaves, **options)
    output.backward(grad)
    return [output.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]


def _relative_error(got: Tensor, want: Tensor, otherwise: float) -> float:
    size = want.norm().item()
    error = (got.double() - want).norm().item()
    if error != error:  # max() would lose a NaN
        return float("inf")
    return error / (size if size > 1e-12 * otherwise else max(otherwise, 1e-300))


def errors_of(cases: int) -> tuple[list[float], str]:
    """Compute the worst error of each of a fixed sequence of random cases, and describe the worst of all."""
    choose = random.Random(0)
    found = []
    for seed in range(cases):
        case = random_case(choose)
        found.append((*worst_error(case, seed), case))
    error, name, case = max(found, key=lambda item: item[0])
    return [item[0] for item in found], f"worst {error:.1e}: {name} of {case}"
