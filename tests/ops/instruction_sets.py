"""Run by test_native.py in a fresh Python, once for each instruction set that SASA_CPU names.

Every operator of the library on shapes that reach each kind of tile, against the reference in float64: output and all
gradients, all dtypes; and half precision, number by number. Prints one JSON object: the instruction set, the number of
comparisons, and a sentence for each that failed.
"""

import json
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import fused
from helpers import TOLERANCE, block_inputs, double, local_inputs, normal, output_and_gradients, relative_error
from sasa.ops import block_attention, local_attention, native
from sasa.ops.affine import affine_
from sasa.ops.norm_relu import norm_relu
from sasa.ops.qkv_attention import qkv_attention, qkv_attention_inference

LOCAL_SHAPES = [  # batch, heads, head_dim, value_dim, height, width, kernel_size
    (2, 2, 8, 8, 7, 19, 3),  # eight channels at once; half a vector at the end of a row
    (1, 2, 4, 10, 5, 37, 7),
    (1, 1, 16, 3, 4, 16, 5),
    (1, 2, 2, 9, 4, 9, 9),
    (1, 1, 6, 8, 10, 20, 11),
    (2, 1, 4, 4, 3, 2, 13),  # a window without code of its own, larger than the map
    (1, 2, 8, 8, 9, 1, 3),
    (1, 1, 8, 16, 2, 17, 1),
]
BLOCK_SHAPES = [  # batch, channels, heads, head_dim, value_dim, height, width, block_size
    (2, 3, 2, 8, 4, 37, 75, 4),  # two strips, two tiles, the last blocks partial
    (1, 3, 1, 4, 3, 5, 9, 3),
    (2, 5, 2, 2, 5, 3, 2, 7),
    (1, 4, 3, 4, 1, 4, 40, 2),
]
BETWEEN_SHAPES = [(2, 16, 5, 7), (3, 37, 2, 9), (1, 70, 9, 8), (5, 3, 4, 4)]  # of what stands between convolutions
TERMS = ("both", "content", "relative")
LAST = torch.channels_last
Comparison = tuple[str, list, list]  # of what, got, want


def wide(dtype: torch.dtype) -> torch.dtype:
    """What side inputs have that are never rounded to half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def lay(tensors: list[Tensor | None], memory_format: torch.memory_format) -> list[Tensor | None]:
    """The same tensors, maps in a memory format."""
    return [t if t is None or t.dim() < 4 else t.contiguous(memory_format=memory_format) for t in tensors]


def local(dtype: torch.dtype) -> Iterator[Comparison]:
    """`local_attention`."""
    for n, shape in enumerate(LOCAL_SHAPES):
        batch, heads, _, value_dim, height, width, kernel = shape
        grad = normal(batch, heads * value_dim, height, width, seed=9, dtype=dtype)
        for m, layout in enumerate((LAST, torch.contiguous_format)):
            terms, padding = TERMS[(n + m) % 3], ("zeros", "mask")[(n // 2 + m) % 2]
            options = {"kernel_size": kernel, "num_heads": heads, "padding": padding, "scale": 0.7}
            options["content"] = terms != "relative"
            tensors = lay(local_inputs(*shape, terms=terms, dtype=dtype), layout)
            got = output_and_gradients(local_attention, tensors, grad, **options, backend="cpu")
            want = output_and_gradients(local_attention, double(tensors), grad.double(), **options, backend="reference")
            yield f"local_attention {shape} {terms} {padding} {layout}", got, want


def one_map(dtype: torch.dtype) -> Iterator[Comparison]:
    """`qkv_attention`, and its form for inference with pooling or without."""
    for n, (batch, heads, head_dim, _, height, width, kernel) in enumerate(LOCAL_SHAPES):
        shape, pool = (batch, heads, head_dim, head_dim, height, width, kernel), 1 + n % 2
        channels = heads * head_dim
        grad = normal(batch, channels, height, width, seed=9, dtype=dtype)
        terms, layout = TERMS[n % 3], (LAST, torch.contiguous_format)[n // 2 % 2]
        options = {"kernel_size": kernel, "num_heads": heads, "padding": "zeros", "scale": 0.7}
        options["content"] = terms != "relative"
        *maps, rel_row, rel_col = local_inputs(*shape, terms=terms, dtype=dtype)
        tensors = lay([torch.cat([m for m in maps if m is not None], 1), rel_row, rel_col], layout)
        name = f"qkv_attention {shape} {terms} {layout}"
        got = output_and_gradients(qkv_attention, tensors, grad, **options)
        yield name, got, output_and_gradients(fused.qkv_attention, double(tensors), grad.double(), **options)

        affine = [normal(channels, seed=seed, dtype=wide(dtype)) for seed in (5, 6)]
        options.update(relu=n % 2 == 0, pool=pool)
        got = qkv_attention_inference(*tensors, *affine, **options)
        want = fused.qkv_attention_inference(*double(tensors), *double(affine), **options)
        yield f"{name} for inference, pool {pool}", [got], [want]


def blocks(dtype: torch.dtype) -> Iterator[Comparison]:
    """`block_attention`, and its pooled form."""
    for n, shape in enumerate(BLOCK_SHAPES):
        batch, _, heads, _, value_dim, height, width, block_size = shape
        grad = normal(batch, heads * value_dim, height, width, seed=9, dtype=dtype)
        sign = normal(heads * value_dim, seed=77, dtype=wide(dtype))
        for m, values in enumerate(("weights", "map")):
            terms, layout = TERMS[(n + m) % 3], (LAST, torch.contiguous_format)[(n // 2 + m) % 2]
            options = {"block_size": block_size, "num_heads": heads, "scale": 0.7}
            tensors = lay(block_inputs(*shape, terms=terms, values=values, dtype=dtype), layout)
            content = {"content": terms != "relative"}
            name = f"block_attention {shape} {terms} {values} {layout}"
            got = output_and_gradients(whole, tensors, grad, **options, **content, backend="cpu")
            judge = output_and_gradients(
                whole, double(tensors), grad.double(), **options, **content, backend="reference"
            )
            yield name, got, judge

            *more, position = pooled(tensors, sign, options, None)
            yield f"{name}, pooled", more, pooled(double(tensors), sign.double(), options, position)[:-1]


def between(dtype: torch.dtype) -> Iterator[Comparison]:
    """`affine_`, and in float32 `norm_relu`."""
    for n, shape in enumerate(BETWEEN_SHAPES):
        x, residual = (normal(*shape, seed=seed, dtype=dtype).contiguous(memory_format=LAST) for seed in (0, 1))
        gain, shift = (normal(shape[1], seed=seed, dtype=wide(dtype)) for seed in (2, 3))
        for layout in (LAST, torch.contiguous_format):
            got = affine_(*lay([x.clone()], layout), gain, shift, *lay([residual], layout), relu=n % 2 == 0)
            want = torch.addcmul(shift.double()[:, None, None], x.double(), gain.double()[:, None, None])
            want = want + residual.double()
            yield f"affine_ {shape} {layout}", [got], [want.relu() if n % 2 == 0 else want]
        if dtype == torch.float32:
            yield f"norm_relu {shape}", *(normed(f, [x, gain, shift, residual]) for f in (norm_relu, norm_of_torch))


def norm_of_torch(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *, relu: bool, eps: float) -> list[Tensor]:
    """What `norm_relu` is, in float64."""
    y = F.batch_norm(x.double(), None, None, weight.double(), bias.double(), training=True, eps=eps)
    return [(y + residual.double()).relu()]


def normed(function: Callable, tensors: list[Tensor]) -> list[Tensor]:
    """The map and all gradients."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves, relu=True, eps=1e-5)[0]
    grad = normal(*y.shape, seed=9, dtype=torch.float32).contiguous(memory_format=LAST)
    return [y, *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def whole(image, w_query, w_key, w_value, rel_row, rel_col, value, **options) -> Tensor:
    """`block_attention` with all its tensors by position."""
    return block_attention(image, w_query, w_key, w_value, rel_row, rel_col, value=value, **options)


def pooled(tensors: list, sign: Tensor, options: dict, position: Tensor | None) -> list[Tensor | None]:
    """Extremes, sums and all gradients of `block_attention_pooled`, or of its judge at given positions; positions."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    if position is None:
        more = (options["block_size"], options["num_heads"], options["scale"])
        extreme, position, sums = torch.ops.sasa.block_attention_pooled(*leaves, sign, *more)
    else:
        extreme, _, sums = fused.block_attention_pooled(*leaves, sign, position=position, **options)
    grads = [normal(*extreme.shape, seed=98).to(extreme.dtype), normal(*sums.shape, seed=99)]
    torch.autograd.backward([extreme, sums], grads)
    return [extreme, sums, *(None if t is None else t.grad for t in leaves), position]


def sentences(comparisons: Iterator[Comparison], dtype: torch.dtype) -> Iterator[str | None]:
    """None for each comparison that holds, else a sentence."""
    for name, got, want in comparisons:
        size = sum(t.double().norm().item() for t in want[:2] if t is not None)
        for n, (one, judge) in enumerate(zip(got, want, strict=True)):
            error = 0.0 if one is None else relative_error(one, judge, otherwise=size)
            ok = error <= TOLERANCE[dtype]
            yield None if ok else f"{name}, {dtype}: result {n} differs by {error:.1e}"


def halves(dtype: torch.dtype) -> Iterator[str | None]:
    """All 65536 numbers of a half precision: through a window of one pixel, where attention is the value itself."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for channels, width in ((8, 128), (64, 16), (1, 1024)):
        value = bits.view(dtype).reshape(1, channels, -1, width)
        gain = normal(channels, seed=1, dtype=torch.float32)
        gain[::2] *= 1e-2  # products that become subnormal; the others, with 1e2, reach infinity
        gain[1::2] *= 1e2
        rest = {"kernel_size": 1, "num_heads": 1, "padding": "zeros", "scale": 1.0, "content": True}
        for layout in (torch.contiguous_format, LAST):
            qkv = torch.cat([torch.zeros_like(value), torch.zeros_like(value), value], 1).contiguous(
                memory_format=layout
            )
            same = qkv_attention(qkv, **rest)
            yield (
                None
                if exactly(same, value)
                else f"a {dtype} does not come back as it was, {channels} channels, {layout}"
            )
            scaled = qkv_attention_inference(qkv, None, None, gain, None, relu=False, pool=1, **rest)
            want = (value.float() * gain[:, None, None]).to(dtype)
            yield (
                None if exactly(scaled, want) else f"a product is not rounded to {dtype}, {channels} channels, {layout}"
            )


def exactly(got: Tensor, want: Tensor) -> bool:
    """Equal numbers, and NaN where NaN is wanted. The sign of zero is free: a sum that began at 0 has lost it."""
    return bool(((got == want) | (got.isnan() & want.isnan())).all())


def main() -> None:
    """All of it."""
    torch.set_num_threads(1)
    report = {"instruction_set": native.instruction_set(), "why_not": native.missing(), "compared": 0, "wrong": []}
    if report["why_not"] is None:
        found = [
            s
            for dtype in TOLERANCE
            for part in (local, one_map, blocks, between)
            for s in sentences(part(dtype), dtype)
        ]
        found += [s for dtype in (torch.float16, torch.bfloat16) for s in halves(dtype)]
        report.update(compared=len(found), wrong=[sentence for sentence in found if sentence])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
