"""Calls of the operators on a GPU beside the float64 reference on the CPU.

Between a tensor's copy to the GPU and the copy of the results back nothing but the operator runs there, so that these
tests also run on the stand-in of tests/cuda/fake, whose GPU has none of torch's kernels.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from helpers import TOLERANCE, assert_close, normal
from sasa.ops import local_attention

NAMES = ("output", "query", "key", "value", "rel_row", "rel_col")


@dataclass(frozen=True)
class Options:
    kernel_size: int = 7
    num_heads: int = 2
    padding: str = "zeros"
    scale: float = 1.0
    content: bool = True


@dataclass(frozen=True)
class Call:
    """Local attention of slices of one map, on the CPU."""

    qkv: Tensor
    tables: tuple[Tensor | None, Tensor | None]
    grad_output: Tensor
    options: Options

    @classmethod
    def make(
        cls, batch: int, head_dim: int, height: int, width: int, options: Options, dtype: torch.dtype,
        *, position: bool = True, memory_format: torch.memory_format = torch.channels_last,
    ) -> "Call":  # fmt: skip
        channels = options.num_heads * head_dim
        size = (height, width)
        table = (options.num_heads, options.kernel_size, head_dim // 2)
        wide = torch.promote_types(dtype, torch.float32)
        return cls(
            normal(batch, (3 if options.content else 2) * channels, *size, dtype=dtype).to(memory_format=memory_format),
            (normal(*table, seed=1, dtype=wide), normal(*table, seed=2, dtype=wide)) if position else (None, None),
            normal(batch, channels, *size, seed=3, dtype=dtype).to(memory_format=memory_format),
            options,
        )

    def inputs(self, device: str, dtype: torch.dtype | None = None) -> list[Tensor | None]:
        """Leaf tensors that require gradients: query, key, value and both tables."""
        query, *key, value = self.qkv.to(device, dtype or self.qkv.dtype).chunk(3 if self.options.content else 2, 1)
        tables = [None if t is None else t.to(device, dtype or t.dtype) for t in self.tables]
        every = [query, key[0] if key else None, value, *tables]
        return [None if t is None else t.detach().requires_grad_() for t in every]

    def results(self, device: str, backend: str, dtype: torch.dtype | None = None) -> list[Tensor | None]:
        """The output and the gradient of each input."""
        inputs = self.inputs(device, dtype)
        output = local_attention(*inputs, **asdict(self.options), backend=backend)  # pyright: ignore
        grad = self.grad_output.to(device, dtype or self.grad_output.dtype)
        given = [t for t in inputs if t is not None]
        grads = iter(torch.autograd.grad(output, given, grad))
        return [output.detach(), *(None if t is None else next(grads) for t in inputs)]

    def check(self, backend: str = "cuda", **tolerance: float) -> None:
        """Compare every result with the reference."""
        got = self.results("cuda", backend)
        assert_all_close(got, self.results("cpu", "reference", torch.float64), self.qkv.dtype, NAMES, **tolerance)


def assert_all_close(got: Any, want: Any, dtype: torch.dtype, names: tuple[str, ...], **tolerance: float) -> None:
    """Results in order, within the tolerance of their dtype."""
    for name, one, expected in zip(names, got, want, strict=True):
        assert (one is None) == (expected is None), name
        if one is not None:
            assert_close(one.cpu(), expected, tolerance.get("tolerance", TOLERANCE[dtype]), name=name)
