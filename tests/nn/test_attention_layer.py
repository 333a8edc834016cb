"""`LocalAttention2d`: parameters, results, errors."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import sasa
from helpers import argument_error, assert_close, loop_local_attention, normal, relative_error
from sasa import LocalAttention2d
from sasa.errors import ArgumentError
from sasa.nn import sinusoid


def equation_3(layer: LocalAttention2d, x: torch.Tensor) -> torch.Tensor:
    """The layer's result before pooling, from its parameters, by loops."""
    names = ["q", "k", "v"] if layer.content else ["q", "v"]
    weights = dict(zip(names, layer.qkv.weight.double().flatten(1).split(layer.out_channels), strict=True))
    maps = {name: torch.einsum("oc,bchw->bohw", weight, x.double()) for name, weight in weights.items()}
    return loop_local_attention(
        maps["q"],
        maps.get("k"),
        maps["v"],
        layer.rel_row,
        layer.rel_col,
        kernel_size=layer.kernel_size,
        num_heads=layer.num_heads,
        padding=layer.padding,
        scale=layer.scale,
    )[0]


# ------------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(("channels", "kernel_size"), [(64, 7), (16, 3), (32, 1)])
def test_parameters_are_three_matrices_and_k_vectors(channels, kernel_size):
    layer = LocalAttention2d(channels, channels, kernel_size)
    assert sum(p.numel() for p in layer.parameters()) == 3 * channels**2 + kernel_size * channels


def test_parameters_of_the_variants():
    def count(**options):
        return sum(p.numel() for p in LocalAttention2d(24, 16, 5, num_heads=4, **options).parameters())

    assert count() == 3 * 24 * 16 + 5 * 16
    assert count(bias=True) == 3 * 24 * 16 + 3 * 16 + 5 * 16
    assert count(content=False) == 2 * 24 * 16 + 5 * 16
    assert count(position="absolute") == 3 * 24 * 16
    assert count(position="none") == 3 * 24 * 16


def test_state_dict_keys_are_stable():
    """Saved files contain these names and shapes."""
    layer = LocalAttention2d(24, 16, 5, num_heads=4, bias=True)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "qkv.weight": (48, 24, 1, 1),
        "qkv.bias": (48,),
        "rel_row": (4, 5, 2),
        "rel_col": (4, 5, 2),
    }
    assert list(LocalAttention2d(24, 16, position="none").state_dict()) == ["qkv.weight"]
    content_free = LocalAttention2d(24, 16, content=False).state_dict()
    assert list(content_free) == ["rel_row", "rel_col", "qkv.weight"]
    assert content_free["qkv.weight"].shape == (32, 24, 1, 1)


@pytest.mark.parametrize("out_channels", [16, 64, 256, 1024], ids=lambda c: f"head_dim={c // 8}")
def test_logits_start_at_order_one_for_any_head_dim(out_channels):
    torch.manual_seed(0)
    layer = LocalAttention2d(128, out_channels, kernel_size=7)
    x = torch.randn(2, 128, 12, 12)
    query, key, value = (t.unflatten(1, (8, -1)) for t in layer.project(x).chunk(3, 1))
    content = torch.einsum("bndhw,bndhw->bnhw", query, key.roll(1, 3))
    row = torch.einsum("bndhw,nkd->bnkhw", query.chunk(2, dim=2)[0], layer.rel_row)
    col = torch.einsum("bndhw,nkd->bnkhw", query.chunk(2, dim=2)[1], layer.rel_col)
    assert 0.6 < content.std() < 1.6
    assert 0.6 < (row.square().mean() + col.square().mean()).sqrt() < 1.6
    assert 0.8 < value.std() < 1.2, "W_V keeps the variance of its input"


def test_reset_parameters_draws_again_and_zeroes_biases():
    layer = LocalAttention2d(8, 8, 3, num_heads=2, bias=True)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        layer.qkv.bias.fill_(1.0)
    layer.reset_parameters()
    assert not layer.qkv.bias.any()
    assert all((layer.state_dict()[name] != before[name]).all() for name in ("qkv.weight", "rel_row", "rel_col"))


# --------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "mask"},
        {"content": False},
        {"position": "none"},
        {"scale": 0.25},
        {"kernel_size": (5, 5)},
        {"kernel_size": 1},
        {"num_heads": 4},
        {"backend": "reference"},
        {"backend": "eager"},
    ],
    ids=str,
)
def test_the_layer_is_equation_3_of_its_parameters(options):
    layer = LocalAttention2d(6, 8, **{"kernel_size": 3, "num_heads": 2, "dtype": torch.float64, **options})
    x = normal(2, 6, 5, 4)
    assert_close(layer(x), equation_3(layer, x))


def test_a_bias_reaches_queries_keys_and_values():
    layer = LocalAttention2d(6, 8, kernel_size=3, num_heads=2, bias=True, padding="mask", dtype=torch.float64)
    with torch.no_grad():
        layer.qkv.bias.copy_(normal(24, seed=4))
    x = normal(1, 6, 5, 4)
    q, k, v = (F.conv2d(x, w, b) for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True))
    options = {"kernel_size": 3, "num_heads": 2, "padding": "mask", "scale": 1.0}
    assert_close(layer(x), loop_local_attention(q, k, v, layer.rel_row, layer.rel_col, **options)[0])


@pytest.mark.parametrize("padding", ["zeros", "mask"])
def test_absolute_positions_are_added_to_the_input(padding):
    layer = LocalAttention2d(
        6, 8, kernel_size=3, num_heads=2, position="absolute", padding=padding, dtype=torch.float64
    )
    x = normal(2, 6, 5, 4)
    assert layer.rel_row is None
    assert_close(layer(x), equation_3(layer, x + sinusoid(6, 5, 4)))
    assert relative_error(layer(x), equation_3(layer, x)) > 0.1


@pytest.mark.parametrize("stride", [2, 3, (2, 2)])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (7, 9), (8, 6)], ids=str)
def test_a_stride_averages_the_pixels_in_a_window(size, stride):
    """The size is that of a strided convolution, ceil(side / stride); at the border fewer pixels are averaged."""
    layer = LocalAttention2d(6, 8, kernel_size=3, stride=stride, num_heads=2, dtype=torch.float64)
    x = normal(2, 6, *size)
    got, full = layer(x), equation_3(layer, x)
    side = layer.stride
    assert got.shape == F.conv2d(x, normal(8, 6, 3, 3), stride=stride, padding=1).shape
    assert got.shape[2:] == (math.ceil(size[0] / side), math.ceil(size[1] / side))
    for i in range(got.shape[2]):
        for j in range(got.shape[3]):
            window = full[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side]
            assert_close(got[:, :, i, j], window.mean((2, 3)))


def test_an_image_without_a_batch():
    layer = LocalAttention2d(6, 8, kernel_size=3, stride=2, num_heads=2)
    x = torch.randn(6, 5, 7)
    assert torch.equal(layer(x), layer(x[None])[0])


def test_an_empty_batch():
    layer = LocalAttention2d(6, 8, kernel_size=3, stride=2, num_heads=2)
    assert layer(torch.randn(0, 6, 5, 7)).shape == (0, 8, 3, 4)


def test_gradients_reach_every_parameter_and_the_input():
    layer = LocalAttention2d(6, 8, kernel_size=3, stride=2, num_heads=2, bias=True)
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in (("x", x), *layer.named_parameters()):
        assert tensor.grad.abs().sum() > 0, name


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_the_layout_of_the_input_is_kept(memory_format):
    layer = LocalAttention2d(6, 8, kernel_size=3, num_heads=2).to(memory_format=memory_format)
    x = torch.randn(2, 6, 5, 7).contiguous(memory_format=memory_format)
    assert layer(x).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("padding", ["zeros", "mask"])
@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_attention_weights(position, padding):
    layer = LocalAttention2d(6, 8, 3, num_heads=2, stride=2, padding=padding, position=position, dtype=torch.float64)
    x = normal(2, 6, 5, 7)
    weights = layer.attention_weights(x)
    assert weights.shape == (2, 2, 3, 3, 5, 7)
    assert not weights.requires_grad
    assert_close(weights.sum((2, 3)), torch.ones(2, 2, 5, 7))
    value = F.pad(layer.project(x).chunk(3, 1)[2], (1, 1, 1, 1)).unflatten(1, (2, 4))
    got = sum(
        weights[:, :, u, v, None] * value[..., u : u + 5, v : v + 7]  # the position (i + u - 1, j + v - 1)
        for u in range(3)
        for v in range(3)
    )
    layer.stride = 1
    assert_close(got.flatten(1, 2), layer(x))


def test_attention_weights_without_content():
    layer = LocalAttention2d(6, 8, 3, num_heads=2, content=False)
    assert_close(layer.attention_weights(torch.randn(1, 6, 4, 4)).sum((2, 3)), torch.ones(1, 2, 4, 4), 1e-6)


# ---------------------------------------------------------------------------------------------------- the sinusoid


def test_sinusoid_by_hand():
    """8 channels: 4 for the row, 4 for the column; angles p and p / 10000 ** (2 / 4) = p / 100 in each half."""
    table = sinusoid(8, 3, 5)
    assert table.shape == (8, 3, 5)
    for y in range(3):
        for x in range(5):
            row = [math.sin(y), math.cos(y), math.sin(y / 100), math.cos(y / 100)]
            col = [math.sin(x), math.cos(x), math.sin(x / 100), math.cos(x / 100)]
            assert table[:, y, x].tolist() == pytest.approx(row + col, abs=1e-6)


def test_sinusoid_of_an_odd_number_of_channels_gives_the_row_one_more():
    table = sinusoid(3, 4, 6)
    assert table[:, 2, 5].tolist() == pytest.approx([math.sin(2), math.cos(2), math.sin(5)], abs=1e-6)
    assert sinusoid(1, 4, 6)[0, 3].tolist() == pytest.approx([math.sin(3)] * 6, abs=1e-6)


def test_a_position_does_not_depend_on_the_size_of_the_map():
    assert torch.equal(sinusoid(10, 4, 6), sinusoid(10, 9, 11)[:, :4, :6])


# ------------------------------------------------------------------------------------------ torch's usual machinery


def test_device_and_dtype_arguments():
    layer = LocalAttention2d(6, 8, kernel_size=3, num_heads=2, device="cpu", dtype=torch.float64)
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert layer(normal(1, 6, 4, 4)).dtype == torch.float64


def test_construction_and_a_call_on_meta():
    layer = LocalAttention2d(6, 8, kernel_size=3, stride=2, num_heads=2, bias=True, device="meta")
    assert all(p.is_meta for p in layer.parameters())
    y = layer(torch.empty(2, 6, 5, 7, device="meta"))
    assert y.is_meta
    assert y.shape == (2, 8, 3, 4)
    real = layer.to_empty(device="cpu")
    real.reset_parameters()
    assert real(torch.randn(2, 6, 5, 7)).isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)], ids=str)
@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_half_precision(position, dtype, tolerance):
    layer = LocalAttention2d(6, 8, kernel_size=3, stride=2, num_heads=2, position=position, dtype=torch.float64)
    x = normal(2, 6, 5, 7)
    want = layer(x)
    half = copy.deepcopy(layer).to(dtype)
    got = half(x.to(dtype))
    assert got.dtype == dtype
    assert_close(got, want, tolerance)
    got.sum().backward()
    assert all(p.grad.dtype == dtype for p in half.parameters())


def test_a_deep_copy_is_another_layer_with_the_same_numbers():
    layer = LocalAttention2d(6, 8, kernel_size=3, num_heads=2)
    other = copy.deepcopy(layer)
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(layer(x), other(x))
    with torch.no_grad():
        other.rel_row.add_(1.0)
    assert not torch.equal(layer(x), other(x))


def test_a_state_dict_goes_through_a_file(tmp_path):
    layer = LocalAttention2d(6, 8, kernel_size=3, num_heads=2)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = LocalAttention2d(6, 8, kernel_size=3, num_heads=2)
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(layer(x), other(x))


def test_repr():
    assert repr(LocalAttention2d(64, 128)).startswith(
        "LocalAttention2d(\n  64, 128, kernel_size=7, num_heads=8\n  (qkv): Conv2d(64, 384,"
    )
    assert LocalAttention2d(6, 8, 3, 2, "mask", 2, position="absolute", scale=0.5).extra_repr() == (
        "6, 8, kernel_size=3, num_heads=2, stride=2, padding='mask', position='absolute', scale=0.5"
    )
    assert LocalAttention2d(6, 8, content=False, num_heads=4).extra_repr().endswith("num_heads=4, content=False")


def test_the_public_name():
    assert sasa.LocalAttention2d is sasa.nn.LocalAttention2d is LocalAttention2d


# ---------------------------------------------------------------------------------------------------------- errors

SCALE = torch.nn.Parameter(torch.ones(()))
NOT_PIXELS = (
    "is not a number of pixels here: attention always keeps the size of its map; leave padding out, or choose "
    '"zeros" (keys outside are zero vectors) or "mask" (no keys outside)'
)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"out_channels": 10, "num_heads": 4}, "out_channels (10) must be divisible by num_heads (4)"),
        ({"num_heads": 0}, "num_heads must be a positive integer, got 0"),
        (
            {"out_channels": 24, "num_heads": 8},
            "relative positions need an even number of channels in each head, half for rows and half for columns: "
            "out_channels (24) over num_heads (8) gives 3",
        ),
        (
            {"kernel_size": 4},
            "kernel_size (4) must be odd: the window is centred on its query pixel; use 3 or 5",
        ),
        ({"kernel_size": -1}, "kernel_size must be a positive odd integer, got -1"),
        ({"kernel_size": (3, 5)}, "kernel_size must be one number or two equal numbers, got (3, 5)"),
        ({"kernel_size": (3,)}, "kernel_size must be one number or two equal numbers, got (3,)"),
        ({"stride": (2, 1)}, "stride must be one number or two equal numbers, got (2, 1)"),
        ({"padding": 1}, f"padding (1) {NOT_PIXELS}"),
        ({"padding": (1, 1)}, f"padding ((1, 1)) {NOT_PIXELS}"),
        ({"padding": "same"}, 'padding must be "zeros" or "mask", got \'same\''),
        ({"position": "rope"}, "position must be one of relative, absolute, none; got 'rope'"),
        (
            {"content": False, "position": "none"},
            "content=False needs position=\"relative\": with position='none' there are no logits",
        ),
        (
            {"content": False, "position": "absolute"},
            "content=False needs position=\"relative\": with position='absolute' there are no logits",
        ),
        ({"in_channels": 0}, "in_channels (0), out_channels (16) and stride (1) must be at least 1"),
        ({"out_channels": 0}, "in_channels (8), out_channels (0) and stride (1) must be at least 1"),
        ({"stride": 1.5}, "stride must be a positive integer, got 1.5"),
        ({"num_heads": True}, "num_heads must be a positive integer, got True"),
        ({"stride": 0}, "in_channels (8), out_channels (16) and stride (0) must be at least 1"),
        ({"scale": float("nan")}, "scale must be a finite number, got nan"),
        ({"scale": SCALE}, f"scale must be a finite number, got {SCALE!r}"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_at_construction(arguments, sentence):
    with argument_error(sentence):
        LocalAttention2d(**{"in_channels": 8, "out_channels": 16, **arguments})


def test_an_unknown_backend_is_an_error_at_construction():
    with pytest.raises(ArgumentError, match=r"^backend must be one of auto, .*; got 'cudnn'$"):
        LocalAttention2d(8, 16, backend="cudnn")


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("size", [(2, 6, 5, 5), (2, 8), (6, 5, 5)])
def test_errors_of_the_input(size, gradients):
    given = (1, *size) if len(size) == 3 else size
    sentence = f"the input must be (batch, 8, height, width), got {given}"
    with torch.set_grad_enabled(gradients), argument_error(sentence):
        LocalAttention2d(8, 16, num_heads=4)(torch.randn(size))
