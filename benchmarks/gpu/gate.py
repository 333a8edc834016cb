"""The gate: the CUDA kernels against the float64 reference, output and every gradient; and repeated calls."""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.rows import FAILED, Bench, Row, Values
from benchmarks.gpu.shapes import LAYERS, Layer, operands, stem_inputs
from sasa.ops import local_attention
from sasa.ops.arguments import BlockInputs, BlockOptions
from sasa.ops.block_pooled import block_attention_pooled

BOUNDS = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5, torch.float64: 1e-10}  # relative L2
STEM_BOUND = 2e-2  # in bfloat16: rounding may choose another extreme of a block
REPEATS = 10
NAMES = ("output", "query", "key", "value", "rel_row", "rel_col")


class Case(NamedTuple):
    """A call of local attention on two images; without content or position the logits lack that term."""

    dtype: torch.dtype
    heads: int
    head_dim: int
    height: int
    width: int
    window: int = 7
    padding: str = "zeros"
    content: bool = True
    position: bool = True
    channels_last: bool = True

    def __str__(self) -> str:
        words = [_name(self.dtype), f"{self.heads} heads of {self.head_dim}", f"{self.height} x {self.width}"]
        words += [f"k {self.window}", self.padding]
        flags = {"no content": not self.content, "no position": not self.position, "NCHW": not self.channels_last}
        return ", ".join(words + [word for word, there in flags.items() if there])


BF16, FP16, FP32, FP64 = BOUNDS
CASES = (
    Case(BF16, 8, 8, 13, 11),
    Case(BF16, 8, 16, 28, 28),
    Case(BF16, 8, 32, 14, 14, padding="mask"),
    Case(BF16, 8, 64, 7, 7),
    Case(BF16, 2, 128, 9, 17),
    Case(BF16, 3, 8, 1, 23),
    Case(BF16, 4, 16, 17, 5, window=3),
    Case(BF16, 4, 32, 12, 19, window=5, padding="mask"),
    Case(BF16, 2, 64, 16, 16, window=9),
    Case(BF16, 4, 16, 15, 13, window=11),
    Case(BF16, 8, 16, 9, 10, content=False),
    Case(BF16, 8, 16, 9, 10, position=False),
    Case(BF16, 8, 16, 9, 10, channels_last=False),
    Case(FP16, 8, 8, 56, 56),
    Case(FP16, 8, 64, 7, 7, padding="mask"),
    Case(FP32, 8, 8, 28, 28),
    Case(FP32, 8, 32, 14, 14, padding="mask"),
    Case(FP32, 8, 64, 7, 7, channels_last=False),
    Case(FP32, 2, 12, 23, 5, window=5),
    Case(FP64, 2, 8, 13, 11),
    Case(FP64, 3, 4, 9, 6, window=3, padding="mask", channels_last=False),
)


def rows(bench: Bench) -> list[Row]:
    """A row for each case of local attention; the stem; repeated calls."""
    cases = CASES[::6] if bench.quick else CASES
    layers = LAYERS[::3] if bench.on_gpu else [Layer(16, 9, 1)]
    stems = [
        Row(f"gate stem, {_name(dtype)}", functools.partial(stem, dtype=dtype, bound=bound))
        for dtype, bound in ((BF16, STEM_BOUND), (FP32, BOUNDS[FP32]))
    ]
    return [
        Row("compile", compile_all, seconds=120),
        *(Row(f"gate {case}", functools.partial(local, case=case)) for case in cases),
        *stems,
        *(Row(f"gate repeats, {layer}", functools.partial(repeats, layer=layer)) for layer in layers),
    ]


def compile_all(bench: Bench) -> Values:
    """Compile what the layers and the stem of ResNet-50 need: a first call compiles its family in parallel."""
    from sasa.ops import native

    for layer in LAYERS if bench.on_gpu else ():
        _local_results(operands(layer, 1, bench.device), "cuda")
    if bench.on_gpu:
        _stem_results(*stem_inputs(1, 224, 224, BF16), bench.device)
    compiler = native.cuda_compiler()
    return {"NVRTC": compiler and compiler.version, "kernels": compiler and compiler.cached}


def local(bench: Bench, case: Case) -> Values:
    """Errors of the output and of every gradient of a case."""
    want = _results(case, "cpu", torch.float64, "reference")
    got = _results(case, bench.device, None, "cuda" if bench.on_gpu else "eager")
    return judged(dict(zip(NAMES, zip(got, want, strict=True), strict=True)), BOUNDS[case.dtype])


def stem(bench: Bench, dtype: torch.dtype, bound: float) -> Values:
    """Errors of the stem's extremes, sums and gradients of the weights, on sides that are no multiples of 4."""
    inputs, sign = stem_inputs(2, 66, 71, dtype)
    got = _stem_results(inputs, sign, bench.device)
    image, *weights, value = inputs
    wide = type(inputs)(image.double(), *(w.double() for w in weights if w is not None), value)  # pyright: ignore
    want = _stem_results(wide, sign, "cpu")
    names = ("extreme", "sums", "w_query", "w_key", "w_value", "rel_row", "rel_col")
    return judged(dict(zip(names, zip(got, want, strict=True), strict=True)), bound)


def repeats(bench: Bench, layer: Layer) -> Values:
    """How many of several identical calls gave other bits than the first, forward and backward."""
    batch = 32 if bench.on_gpu else 1
    given = operands(layer, batch, bench.device)
    backend = "cuda" if bench.on_gpu else "eager"
    first = _local_results(given, backend)
    others = [_local_results(given, backend) for _ in range(REPEATS - 1)]
    differing = sum(not all(torch.equal(a, b) for a, b in zip(first, other, strict=True)) for other in others)
    finite = all(bool(result.isfinite().all()) for result in first)
    failure = {FAILED: f"{differing} of {len(others)} calls differ from the first"} if differing else {}
    failure |= {} if finite else {FAILED: "a result is not finite"}
    return {"calls": REPEATS, "differing": differing, **failure}


def judged(pairs: dict[str, tuple[Tensor | None, Tensor | None]], bound: float) -> Values:
    """Relative L2 errors of (computed, expected), the worst first; a failure where one is beyond the bound or NaN."""
    errors = {name: _relative(got, want) for name, (got, want) in pairs.items() if got is not None and want is not None}
    worst = max(errors, key=lambda name: errors[name])
    failure = {} if errors[worst] <= bound else {FAILED: f"{worst} differs by {errors[worst]:.1e}, bound {bound:.0e}"}
    return {"worst": errors[worst], **errors, **failure}


def _relative(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    size = want.norm().item()
    error = (got - want).norm().item() / (size if size > 0 else 1.0)
    return error if error == error else float("inf")


def _case_tensors(case: Case, device: str, dtype: torch.dtype | None) -> tuple[list[Tensor | None], Tensor]:
    """q, k and v as slices of one map, both tables and the output's gradient, of numbers that case.dtype holds."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    channels = case.heads * case.head_dim

    def random(kept: torch.dtype, *shape: int) -> Tensor:
        rounded = (0.7 * torch.randn(*shape, generator=generator)).to(kept)
        return (rounded.contiguous(memory_format=layout) if len(shape) == 4 else rounded).to(device, dtype or kept)

    whole, grad = (random(case.dtype, 2, parts * channels, case.height, case.width) for parts in (3, 1))
    query, key, value = whole.chunk(3, dim=1)
    wide = torch.promote_types(case.dtype, torch.float32)
    tables = [random(wide, case.heads, case.window, case.head_dim // 2) for _ in range(2)]
    return [query, key if case.content else None, value, *(tables if case.position else (None, None))], grad


def _results(case: Case, device: str, dtype: torch.dtype | None, backend: str) -> list[Tensor | None]:
    """The output and the gradient of each input, None where the input is, computed in `dtype` or that of the case."""
    inputs, grad = _case_tensors(case, device, dtype)
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    options: dict[str, Any] = {
        "kernel_size": case.window, "num_heads": case.heads, "padding": case.padding, "content": case.content,
    }  # fmt: skip
    output = local_attention(*leaves, **options, backend=backend)  # pyright: ignore[reportArgumentType]
    grads = iter(torch.autograd.grad(output, [t for t in leaves if t is not None], grad))
    return [output, *(None if t is None else next(grads) for t in leaves)]


def _local_results(given: Any, backend: str) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in given.inputs]
    heads, window = inputs[3].shape[:2]
    output = local_attention(*inputs, kernel_size=window, num_heads=heads, backend=backend)
    return [output.detach(), *torch.autograd.grad(output, inputs, given.grad_output)]


def _stem_results(inputs: Any, sign: Tensor, device: str) -> list[Tensor]:
    """Extremes, sums, and the gradients of the weights."""
    image = inputs.image.to(device)
    weights = [w.to(device).requires_grad_() for w in inputs[1:6]]
    given = BlockInputs(image, *weights, value=None)
    extreme, sums = block_attention_pooled(given, sign.to(device), BlockOptions(4, 4, 1.0))
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(r.shape, generator=generator).to(device, r.dtype) for r in (extreme, sums)]
    grads[1] = grads[1] / sums.shape[1]
    return [extreme, sums, *torch.autograd.grad([extreme, sums], weights, grads)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
