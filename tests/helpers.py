"""Helpers of all tests: the equations as plain loops, random inputs, and the measurement of errors.

The loops are slow and independent of the library: they visit pixels, heads and window positions one by one.
"""

import math
import re
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from sasa.errors import ArgumentError
from sasa.ops import native
from sasa.ops.arguments import LocalInputs, LocalOptions
from sasa.ops.backends import BACKENDS

# Relative L2 of the output and of every gradient, the same for every back-end.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}

# Whether exported graphs accept sizes of every remainder by the strides: those of torch 2.11 do not (docs/deploy.md).
OPEN_REMAINDERS = not torch.__version__.startswith("2.11.")
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

# Back-ends that can run on this machine; `sasa doctor` says why the others cannot.
HERE = [name for name, backend in BACKENDS.items() if backend.why_not() is None]

NEEDS_KERNELS = pytest.mark.skipif(native.missing() is not None, reason=f"no kernels here: {native.missing()}")

# Tests without CPU kernels do not depend on the instruction set and run once (tests/ops/test_instruction_sets.py).
WITHOUT_KERNELS = pytest.mark.without_kernels


def backend_param(name: str, *more: str) -> Any:
    """A parameter of a test: the name of a back-end, marked if it calls no CPU kernel, and further values."""
    marks = () if name in ("cpu", "auto") else WITHOUT_KERNELS
    return pytest.param(name, *more, id="-".join([name, *more]), marks=marks)


def backend_params(*names: str) -> list:
    """A parameter for each name."""
    return [backend_param(name) for name in names]


# Every implementation that is compared with the reference, on every device; new entries of BACKENDS are included.
IMPLEMENTATIONS = [
    backend_param(name, device)
    for name in (*(name for name in HERE if name != "reference"), "auto")
    for device in DEVICES
]


def skip_unless_it_runs(backend: str, query: Tensor) -> None:
    """Skip with the back-end's own reason if it cannot run on such maps (device, dtype, width of a head)."""
    call = (LocalInputs(query, query, query, None, None), LocalOptions(3, 1, "zeros", 1.0))
    reason = None if backend == "auto" else BACKENDS[backend].why_not(*call)
    if reason is not None:
        pytest.skip(reason)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """0.7 * normal, rounded to `dtype`: the same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    return (0.7 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).to(device)


def argument_error(sentence: str):
    """A context that expects an ArgumentError with exactly this message."""
    return pytest.raises(ArgumentError, match=f"^{re.escape(sentence)}$")


def relative_error(got: Tensor, want: Tensor, *, otherwise: float = 1.0) -> float:
    """Relative L2. Where `want` vanishes (a softmax over one key has no gradient), relative to `otherwise`."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    difference = (got.detach().double().cpu() - want.detach().double().cpu()).norm().item()
    size = want.detach().double().norm().item()
    return difference / (size if size > 1e-12 * otherwise else max(otherwise, 1e-300))


def assert_close(
    got: Tensor, want: Tensor, tolerance: float = 1e-10, *, otherwise: float = 1.0, name: str = ""
) -> None:
    """Assert a relative L2 error within the tolerance; NaN and a wrong shape fail too."""
    error = relative_error(got, want, otherwise=otherwise)
    assert error <= tolerance, f"{name} differs by {error:.2e}, allowed is {tolerance:.0e}"


def local_inputs(
    batch: int,
    num_heads: int,
    head_dim: int,
    value_dim: int,
    height: int,
    width: int,
    kernel_size: int,
    *,
    terms: str = "both",
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
) -> list[Tensor | None]:
    """query, key, value, rel_row, rel_col of `local_attention`; `terms`: "both", "content" or "relative"."""
    size = (height, width)
    shapes = [
        (batch, num_heads * head_dim, *size),
        None if terms == "relative" else (batch, num_heads * head_dim, *size),
        (batch, num_heads * value_dim, *size),
        *[None if terms == "content" else (num_heads, kernel_size, head_dim // 2)] * 2,
    ]
    return [
        None if shape is None else normal(*shape, seed=10 * seed + n, dtype=dtype, device=device)
        for n, shape in enumerate(shapes)
    ]


def block_inputs(
    batch: int,
    channels: int,
    num_heads: int,
    head_dim: int,
    value_dim: int,
    height: int,
    width: int,
    block_size: int,
    *,
    terms: str = "both",
    values: str = "weights",
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
) -> list[Tensor | None]:
    """image, w_query, w_key, w_value, rel_row, rel_col, value of `block_attention`; `values`: "weights" or "map"."""
    query, value = num_heads * head_dim, num_heads * value_dim
    shapes = [
        (batch, channels, height, width),
        (query, channels),
        None if terms == "relative" else (query, channels),
        (block_size**2, value, channels) if values == "weights" else None,
        *[None if terms == "content" else (num_heads, 2 * block_size - 1, head_dim // 2)] * 2,
        (batch, value, height, width) if values == "map" else None,
    ]
    return [
        None if shape is None else normal(*shape, seed=10 * seed + n, dtype=dtype, device=device)
        for n, shape in enumerate(shapes)
    ]


def output_and_gradients(fn, tensors: list[Tensor | None], grad_output: Tensor, **options) -> list[Tensor | None]:
    """fn's output, then the gradient of sum(output * grad_output) for every tensor; strides are kept."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = fn(*leaves, **options)
    output.backward(grad_output.to(output.dtype).to(output.device))
    return [output.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]


def double(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """The same numbers in float64 on the CPU, for the reference."""
    return [None if t is None else t.detach().double().cpu() for t in tensors]


def _dot(left: list[float], right: list[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))


def _softmax_average(logits: list[float], vectors: list[list[float]]) -> tuple[list[float], float]:
    """The average of the vectors under the softmax of the logits, and the log-sum-exp."""
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    total = sum(weights)
    average = [_dot(weights, list(channel)) / total for channel in zip(*vectors, strict=True)]
    return average, largest + math.log(total)


def _lists(*tensors: Tensor | None) -> list:
    return [None if t is None else t.detach().double().tolist() for t in tensors]


def loop_local_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    rel_row: Tensor | None,
    rel_col: Tensor | None,
    *,
    kernel_size: int,
    num_heads: int,
    padding: str,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Eq. 3 as loops over images, heads, pixels and window positions, in float64: output and log-sum-exp."""
    batch, channels, height, width = query.shape
    head_dim, value_dim, half = channels // num_heads, value.shape[1] // num_heads, kernel_size // 2
    q, k, v, row, col = _lists(query, key, value, rel_row, rel_col)
    output = torch.full((batch, num_heads * value_dim, height, width), math.nan, dtype=torch.float64)
    logsumexp = torch.full((batch, num_heads, height, width), math.nan, dtype=torch.float64)
    for b, n, i, j in product(range(batch), range(num_heads), range(height), range(width)):
        q_ij = [q[b][n * head_dim + c][i][j] for c in range(head_dim)]
        logits, values = [], []
        for down, right in product(range(-half, half + 1), repeat=2):
            y, x = i + down, j + right
            inside = 0 <= y < height and 0 <= x < width
            if padding == "mask" and not inside:
                continue
            logit = 0.0
            if k is not None and inside:
                logit += _dot(q_ij, [k[b][n * head_dim + c][y][x] for c in range(head_dim)])
            if row is not None:
                logit += _dot(q_ij, row[n][down + half] + col[n][right + half])  # lists: + concatenates
            logits.append(scale * logit)
            values.append([v[b][n * value_dim + c][y][x] if inside else 0.0 for c in range(value_dim)])
        average, logsumexp[b, n, i, j] = _softmax_average(logits, values)
        output[b, n * value_dim : (n + 1) * value_dim, i, j] = torch.tensor(average, dtype=torch.float64)
    return output, logsumexp


def loop_block_attention(
    image: Tensor,
    w_query: Tensor,
    w_key: Tensor | None,
    w_value: Tensor | None,
    rel_row: Tensor | None,
    rel_col: Tensor | None,
    value: Tensor | None,
    *,
    block_size: int,
    num_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Eq. 7-8 with Eq. 3's relative positions as loops, in float64: output and log-sum-exp."""
    batch, channels, height, width = image.shape
    head_dim = w_query.shape[0] // num_heads
    value_dim = (value.shape[1] if value is not None else w_value.shape[1]) // num_heads
    pixels, wq, wk, wv, row, col, v = _lists(image, w_query, w_key, w_value, rel_row, rel_col, value)
    output = torch.full((batch, num_heads * value_dim, height, width), math.nan, dtype=torch.float64)
    logsumexp = torch.full((batch, num_heads, height, width), math.nan, dtype=torch.float64)

    def pixel(b: int, y: int, x: int) -> list[float]:
        return [pixels[b][c][y][x] for c in range(channels)]

    for b, n, i, j in product(range(batch), range(num_heads), range(height), range(width)):
        q_ij = [_dot(wq[n * head_dim + d], pixel(b, i, j)) for d in range(head_dim)]
        top, left = i - i % block_size, j - j % block_size
        logits, values = [], []
        for a, c in product(range(block_size), repeat=2):
            y, x = top + a, left + c
            if y >= height or x >= width:
                continue  # a padded pixel is not a key
            logit = 0.0
            if wk is not None:
                logit += _dot(q_ij, [_dot(wk[n * head_dim + d], pixel(b, y, x)) for d in range(head_dim)])
            if row is not None:
                logit += _dot(q_ij, row[n][y - i + block_size - 1] + col[n][x - j + block_size - 1])
            logits.append(scale * logit)
            channel = range(n * value_dim, (n + 1) * value_dim)
            if v is not None:
                values.append([v[b][e][y][x] for e in channel])
            else:
                values.append([_dot(wv[a * block_size + c][e], pixel(b, y, x)) for e in channel])
        average, logsumexp[b, n, i, j] = _softmax_average(logits, values)
        output[b, n * value_dim : (n + 1) * value_dim, i, j] = torch.tensor(average, dtype=torch.float64)
    return output, logsumexp


# (batch, heads, head_dim, value_dim, height, width, kernel_size), terms, padding, scale. Small, since they are
# compared with loops; together they detect all the mistakes of test_known_bugs.py.
EQUATION_3_CASES = [
    ((1, 2, 4, 4, 5, 4, 3), "both", "zeros", 1.0),
    ((1, 2, 4, 4, 5, 4, 3), "both", "mask", 1.0),
    ((2, 2, 2, 2, 3, 5, 3), "content", "mask", 0.5),
    ((1, 4, 2, 2, 3, 3, 5), "relative", "zeros", 2.0),
    ((1, 2, 2, 3, 1, 6, 3), "both", "mask", 1.0),
]


def assert_is_equation_3(fn) -> None:
    """Assert that fn, with the arguments of `local_attention`, is Eq. 3."""
    for shape, terms, padding, scale in EQUATION_3_CASES:
        tensors = local_inputs(*shape, terms=terms)
        options = {"kernel_size": shape[-1], "num_heads": shape[1], "padding": padding, "scale": scale}
        got = fn(*tensors, **options, content=terms != "relative")
        assert_close(got, loop_local_attention(*tensors, **options)[0], name=f"{shape} {terms} {padding}")
