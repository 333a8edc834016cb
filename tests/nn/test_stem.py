"""`AttentionStem`: Eq. 7-9, batch norm and pool at the borders of an image, the variants of Table 7."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from helpers import argument_error, assert_close, loop_block_attention, normal
from sasa import AttentionStem
from sasa.errors import ArgumentError
from sasa.nn import sinusoid


def small_stem(**options) -> AttentionStem:
    """8 channels in 2 heads, blocks of 4 x 4, float64."""
    return AttentionStem(**{"out_channels": 8, "num_heads": 2, "dtype": torch.float64, **options})


def bare_stem(**options) -> AttentionStem:
    """Attention only: no norm, no activation, no pool."""
    return small_stem(norm=False, activation=False, pool=False, **options)


def mixture_by_hand(stem: AttentionStem) -> list[list[float]]:
    """Eq. 9 by loops: p[s][m] for each position s = (a, b), row by row."""
    emb_row, emb_col, nu = (t.tolist() for t in (stem.emb_row, stem.emb_col, stem.nu))
    table = []
    for a in range(stem.block_size):
        for b in range(stem.block_size):
            exponentials = [
                math.exp(sum((r + c) * n for r, c, n in zip(emb_row[a], emb_col[b], vector, strict=True)))
                for vector in nu
            ]
            table.append([e / sum(exponentials) for e in exponentials])
    return table


def values_by_hand(stem: AttentionStem) -> torch.Tensor:
    """Eq. 8 by loops: the value matrix of each position."""
    p, w = mixture_by_hand(stem), stem.w_value.tolist()
    positions, mixtures, rows, columns = len(p), len(w), len(w[0]), len(w[0][0])
    return torch.tensor(
        [
            [[sum(p[s][m] * w[m][o][c] for m in range(mixtures)) for c in range(columns)] for o in range(rows)]
            for s in range(positions)
        ],
        dtype=torch.float64,
    )


# --------------------------------------------------------------------------------------------------------- Eq. 7-9


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_the_mixture_is_equation_9(block_size):
    stem = small_stem(block_size=block_size)
    mixture = stem.mixture()
    assert mixture.shape == (block_size**2, 5)
    assert_close(mixture, torch.tensor(mixture_by_hand(stem), dtype=torch.float64))
    assert_close(mixture.sum(1), torch.ones(block_size**2))


def test_mixtures_differ_between_positions_from_the_start():
    torch.manual_seed(0)
    mixture = AttentionStem().mixture()
    assert torch.unique(mixture, dim=0).shape == (16, 5)
    assert mixture.std(0).min() > 0.02


def test_the_values_are_equation_8():
    stem = small_stem(num_mixtures=3)
    assert_close(stem.mixed_values(), values_by_hand(stem))


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 5), (3, 2), (1, 1)], ids=str)
def test_the_attention_is_equation_7(size, content):
    stem = bare_stem(content=content)
    assert (stem.w_key is None) == (not content)
    image = normal(2, 3, *size)
    want = loop_block_attention(
        image, stem.w_query, stem.w_key, values_by_hand(stem), stem.rel_row, stem.rel_col, None,
        block_size=4, num_heads=2, scale=1.0,
    )[0]  # fmt: skip
    assert_close(stem(image), want)


@pytest.mark.parametrize("position", ["none", "absolute"])
def test_positions(position):
    stem = bare_stem(position=position, scale=0.5)
    assert stem.rel_row is None
    assert stem.rel_col is None
    image = normal(2, 3, 5, 6)
    seen = image if position == "none" else image + sinusoid(3, 5, 6)
    want = loop_block_attention(
        seen, stem.w_query, stem.w_key, values_by_hand(stem), None, None, None,
        block_size=4, num_heads=2, scale=0.5,
    )[0]  # fmt: skip
    assert_close(stem(image), want)


# ------------------------------------------------------------------------------------------------- values, Table 7


def test_pointwise_values_are_one_matrix_everywhere():
    stem = bare_stem(values="pointwise")
    assert stem.w_value.shape == (1, 8, 3)
    assert torch.equal(stem.mixture(), torch.ones(16, 1))
    assert_close(stem.mixed_values(), stem.w_value.expand(16, 8, 3))
    image = normal(2, 3, 5, 6)
    want = loop_block_attention(
        image, stem.w_query, stem.w_key, stem.w_value.expand(16, 8, 3), stem.rel_row, stem.rel_col, None,
        block_size=4, num_heads=2, scale=1.0,
    )[0]  # fmt: skip
    assert_close(stem(image), want)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)], ids=str)
def test_convolution_values_are_those_of_a_4_x_4_convolution(size):
    """Without logits a block's output is the mean of its values: a convolution over one pixel before, two after."""
    stem = bare_stem(values="convolution")
    with torch.no_grad():
        stem.w_query.zero_()
    assert stem.mixed_values() is None
    image = normal(2, 3, *size)
    value = torch.zeros(2, 8, *size, dtype=torch.float64)
    padded = F.pad(image, (1, 2, 1, 2))
    for i in range(size[0]):
        for j in range(size[1]):
            patch = padded[:, :, i : i + 4, j : j + 4]
            value[:, :, i, j] = torch.einsum("bcyx,ocyx->bo", patch, stem.value_conv.weight)
    want = torch.empty_like(value)
    for i in range(0, size[0], 4):
        for j in range(0, size[1], 4):
            block = (..., slice(i, i + 4), slice(j, j + 4))
            want[block] = value[block].mean((2, 3), keepdim=True)
    assert_close(stem(image), want)


def test_convolution_values_meet_the_logits():
    stem = bare_stem(values="convolution", block_size=3)
    image = normal(2, 3, 7, 5)
    value = F.conv2d(image, stem.value_conv.weight, padding=1)
    want = loop_block_attention(
        image, stem.w_query, stem.w_key, None, stem.rel_row, stem.rel_col, value,
        block_size=3, num_heads=2, scale=1.0,
    )[0]  # fmt: skip
    assert_close(stem(image), want)


def test_the_mixture_of_a_stem_without_one():
    assert torch.equal(AttentionStem(values="convolution").mixture(), torch.ones(16, 1))


# --------------------------------------------------------------------------------------------- norm, activation, pool


@pytest.mark.parametrize("values", ["mixture", "convolution"])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (2, 3)], ids=str)
def test_only_pixels_of_the_image_enter_the_statistics(size, values):
    stem = small_stem(values=values)
    bare = bare_stem(values=values)
    bare.load_state_dict({n: v for n, v in stem.state_dict().items() if not n.startswith("norm.")})
    image = normal(3, 3, *size)
    stem(image)
    y = bare(image).detach()
    assert y.shape == (3, 8, *size)
    assert_close(stem.norm.running_mean, 0.1 * y.mean((0, 2, 3)))
    assert_close(stem.norm.running_var, 0.9 + 0.1 * y.transpose(0, 1).flatten(1).var(1))


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_norm_then_pool_then_activation(norm, pool, activation):
    stem = small_stem(norm=norm, pool=pool, activation=activation)
    bare = bare_stem()
    bare.load_state_dict({n: v for n, v in stem.state_dict().items() if not n.startswith("norm.")})
    image = normal(2, 3, 6, 9)
    want = bare(image)
    if norm:
        mean, var = want.mean((0, 2, 3), keepdim=True), want.var((0, 2, 3), keepdim=True, correction=0)
        want = (want - mean) / (var + 1e-5).sqrt()
    if pool:
        pooled = [[want[..., i : i + 4, j : j + 4].amax((2, 3)) for j in (0, 4, 8)] for i in (0, 4)]
        want = torch.stack([torch.stack(row, -1) for row in pooled], -2)
    if activation:
        want = want.clamp(min=0)
    assert_close(stem(image), want)


@pytest.mark.parametrize("values", ["mixture", "pointwise", "convolution"])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 5), (4, 4), (30, 33)], ids=str)
def test_sizes(size, pool, values):
    stem = AttentionStem(3, 8, num_heads=2, pool=pool, values=values).eval()
    expected = tuple(math.ceil(side / 4) for side in size) if pool else size
    assert stem(torch.randn(2, 3, *size)).shape == (2, 8, *expected)


def test_an_empty_batch():
    assert AttentionStem(3, 8).eval()(torch.randn(0, 3, 9, 8)).shape == (0, 8, 3, 2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_the_layout_of_the_image_is_kept(memory_format):
    image = torch.randn(2, 3, 9, 8).contiguous(memory_format=memory_format)
    assert AttentionStem(3, 8)(image).is_contiguous(memory_format=memory_format)


# ------------------------------------------------------------------------------------------ parameters and machinery


def shapes(**options) -> dict[str, tuple[int, ...]]:
    stem = AttentionStem(3, 8, num_heads=2, **options)
    return {name: tuple(value.shape) for name, value in stem.state_dict().items()}


def test_state_dict_keys_are_stable():
    """Saved files contain these names and shapes."""
    norm = {f"norm.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")}
    norm["norm.num_batches_tracked"] = ()
    relative = {"rel_row": (2, 7, 2), "rel_col": (2, 7, 2)}
    matrices = {"w_query": (8, 3), "w_key": (8, 3)}
    mixture = {"w_value": (5, 8, 3), "emb_row": (4, 4), "emb_col": (4, 4), "nu": (5, 4)}
    assert shapes() == matrices | relative | mixture | norm
    assert shapes(values="pointwise") == matrices | relative | {"w_value": (1, 8, 3)} | norm
    assert shapes(values="convolution", norm=False) == matrices | relative | {"value_conv.weight": (8, 3, 4, 4)}
    assert shapes(content=False, norm=False) == {"w_query": (8, 3)} | relative | mixture
    assert shapes(position="none", norm=False) == matrices | mixture
    assert shapes(position="absolute", norm=False) == matrices | mixture


@pytest.mark.parametrize("values", ["mixture", "pointwise", "convolution"])
@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_gradients_reach_every_parameter_and_are_the_references(values, content, backend):
    stem = small_stem(values=values, content=content, backend=backend)
    reference = copy.deepcopy(stem)
    reference.backend = "reference"
    grads = []
    for module in (stem, reference):
        image = normal(2, 3, 7, 9).requires_grad_()
        (module(image) * normal(2, 8, 2, 3, seed=9)).sum().backward()
        grads.append({"image": image.grad, **{name: p.grad for name, p in module.named_parameters()}})
    for name, grad in grads[0].items():
        assert grad.abs().sum() > 1e-6, name
        assert_close(grad, grads[1][name], 1e-8, name=name)


@pytest.mark.parametrize("out_channels", [16, 64, 256])
def test_logits_start_at_order_one(out_channels):
    torch.manual_seed(0)
    stem = AttentionStem(64, out_channels)  # of many channels, so that one draw is typical
    pixels = torch.randn(400, 64)
    query, key = ((pixels @ w.T).unflatten(1, (4, -1)) for w in (stem.w_query, stem.w_key))
    assert 0.6 < torch.einsum("pnd,snd->nps", query, key).std() < 1.6
    row = torch.einsum("pnd,nkd->npk", query.chunk(2, dim=-1)[0], stem.rel_row)
    assert 0.4 < row.std() * 2**0.5 < 1.8


def test_half_precision():
    stem = small_stem().eval()
    image = normal(2, 3, 6, 9)
    want = stem(image)
    got = stem.bfloat16()(image.bfloat16())
    assert got.dtype == torch.bfloat16
    assert_close(got, want, 5e-2)


def test_construction_on_meta():
    stem = AttentionStem(3, 8, device="meta")
    assert all(p.is_meta for p in stem.parameters())
    assert stem(torch.empty(2, 3, 9, 8, device="meta")).shape == (2, 8, 3, 2)


def test_repr():
    assert AttentionStem().extra_repr() == (
        "3, 64, block_size=4, num_heads=4, values='mixture', num_mixtures=5, pool=True"
    )
    assert "values='pointwise', num_mixtures=1" in AttentionStem(values="pointwise").extra_repr()


# ---------------------------------------------------------------------------------------------------------- errors

AT_LEAST_ONE = "in_channels ({}), out_channels ({}), block_size ({}) and num_mixtures ({}) must be at least 1"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"values": "patch"}, "values must be one of mixture, pointwise, convolution; got 'patch'"),
        ({"in_channels": 0}, AT_LEAST_ONE.format(0, 64, 4, 5)),
        ({"out_channels": 0}, AT_LEAST_ONE.format(3, 0, 4, 5)),
        ({"block_size": 0}, AT_LEAST_ONE.format(3, 64, 0, 5)),
        ({"num_mixtures": 0}, AT_LEAST_ONE.format(3, 64, 4, 0)),
        ({"out_channels": 10}, "out_channels (10) must be divisible by num_heads (4)"),
        (
            {"out_channels": 12},
            "relative positions need an even number of channels in each head, half for rows and half for columns: "
            "out_channels (12) over num_heads (4) gives 3",
        ),
        ({"scale": float("inf")}, "scale must be a finite number, got inf"),
        ({"position": "both"}, "position must be one of relative, absolute, none; got 'both'"),
        (
            {"content": False, "position": "none"},
            "content=False needs position=\"relative\": with position='none' there are no logits",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_at_construction(arguments, sentence):
    with argument_error(sentence):
        AttentionStem(**arguments)


def test_an_unknown_backend_is_an_error_at_construction():
    with pytest.raises(ArgumentError, match=r"^backend must be one of auto, .*; got 'cudnn'$"):
        AttentionStem(backend="cudnn")


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8), (2, 3)], ids=str)
def test_errors_of_the_image(shape):
    with argument_error(f"the image must be (batch, 3, height, width), got {shape}"):
        AttentionStem()(torch.randn(shape))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "image must be floating point, got torch.uint8"),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.float16),
            "w_query (torch.float32) must have the dtype of image (torch.float16)",
        ),
        (torch.zeros(2, 3, 0, 8), "image must be (batch, channels, height, width), got (2, 3, 0, 8)"),
    ],
    ids=["uint8", "float16", "no rows"],
)
def test_the_fused_stem_refuses_what_the_others_refuse(image, sentence, training):
    stem = AttentionStem().train(training)
    with argument_error(sentence):
        stem(image)
