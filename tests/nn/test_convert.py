"""`sasa.convert`: the layer in place of a convolution, its heads, the report, the choice of convolutions, errors."""

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import nn

import sasa
from convolutions import attentions, conv, spatial
from sasa import LocalAttention2d
from sasa.errors import ArgumentError
from sasa.nn.conversion import Conversion, Kept, Replacement

# The layer


def test_takes_channels_bias_and_options_of_the_convolution():
    converted = sasa.convert(
        nn.Sequential(conv(16, 32, stride=2, bias=False), conv(32, 48)),
        kernel_size=5,
        num_heads=4,
        padding="mask",
        position="absolute",
    )
    first, second = converted
    assert type(first) is type(second) is LocalAttention2d
    assert (first.in_channels, first.out_channels, first.stride, first.kernel_size) == (16, 32, 2, 5)
    assert (second.in_channels, second.out_channels, second.stride) == (32, 48, 1)
    assert first.qkv.bias is None
    assert second.qkv.bias is not None
    assert {(m.num_heads, m.padding, m.position) for m in (first, second)} == {(4, "mask", "absolute")}


def test_original_is_untouched_and_the_rest_copied_with_its_weights():
    network = nn.Sequential(conv(), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
    before = copy.deepcopy(network.state_dict())
    converted = sasa.convert(network)
    for parameter in converted.parameters():
        nn.init.constant_(parameter, 7.0)
    assert spatial(network) == ["0"]
    assert not hasattr(network, "conversion")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    fresh = sasa.convert(network)
    assert torch.equal(fresh[2].weight, network[2].weight)
    assert fresh[2].weight is not network[2].weight


def test_pointwise_convolutions_stay():
    converted = sasa.convert(nn.Sequential(conv(), nn.Conv2d(16, 4, 1, stride=2)))
    assert type(converted[1]) is nn.Conv2d
    assert converted.conversion.kept == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_device_dtype_and_mode(dtype):
    network = nn.Sequential(conv(), conv()).to(dtype)
    network[0].eval()
    first, second = sasa.convert(network)
    assert {p.dtype for p in first.parameters()} == {dtype}
    assert (first.training, first.qkv.training, second.training) == (False, False, True)
    on_meta = sasa.convert(nn.Sequential(nn.Conv2d(16, 16, 2, 2, device="meta")))
    assert {p.device.type for p in on_meta.parameters()} == {"meta"}


def test_layers_in_place_of_frozen_convolutions_are_trainable():
    network = nn.Sequential(conv(), nn.BatchNorm2d(16)).requires_grad_(False)
    converted = sasa.convert(network)
    assert all(p.requires_grad for p in converted[0].parameters())
    assert not any(p.requires_grad for p in converted[1].parameters())


def test_a_shared_convolution_stays_shared():
    shared = conv()
    network = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": conv()})
    network.also = [shared]  # used without being registered
    for where, count in ((None, 2), ("b.0", 1)):
        converted = sasa.convert(network, where=where)
        assert isinstance(converted["a"], LocalAttention2d)
        assert converted["a"] is converted["b"][0] is converted.also[0]
        assert len(attentions(converted)) == len(converted.conversion.replacements) == count
        assert converted.conversion.replacements[0].before == "Conv2d 16 -> 16, 3 x 3, also b.0"


def test_the_network_may_be_a_convolution():
    converted = sasa.convert(conv(stride=2))
    assert isinstance(converted, LocalAttention2d)
    assert converted(torch.randn(2, 16, 5, 6)).shape == (2, 16, 3, 3)
    assert converted.conversion.replacements[0].name == ""
    assert "the network itself" in str(converted.conversion)


def test_a_seed_gives_the_same_layers():
    network = nn.Sequential(*(conv() for _ in range(8)))
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(sasa.convert(network).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_state_and_pickle_come_back(tmp_path: Path):
    network = nn.Sequential(conv(), nn.Conv2d(16, 16, 2, 2))
    converted = sasa.convert(network)
    again = sasa.convert(network)
    again.load_state_dict(converted.state_dict())
    torch.save(converted, tmp_path / "network.pt")
    whole = torch.load(tmp_path / "network.pt", weights_only=False)
    x = torch.randn(2, 16, 6, 7)
    assert torch.equal(again(x), converted(x))
    assert torch.equal(whole(x), converted(x))
    assert whole.conversion == converted.conversion


# Other code may change a convolution's output in place


@pytest.mark.parametrize("layer", [conv(), nn.Conv2d(16, 16, 3, padding=2), nn.Conv2d(16, 16, 3), conv(stride=2)])
def test_in_place_operations_may_follow(layer):
    converted = sasa.convert(nn.Sequential(layer, nn.ReLU(inplace=True)), kernel_size=3)
    plain = copy.deepcopy(converted)
    plain[1].inplace = False
    x = torch.randn(2, 16, 6, 7)
    got, want = converted(x), plain(x)
    assert torch.equal(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    for one, other in zip(converted.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


# Heads


@pytest.mark.parametrize(
    ("channels", "asked", "heads"), [(104, 8, 4), (40, 8, 10), (440, 8, 10), (60, 8, 6), (20, 3, 2), (2, 8, 1)]
)
def test_the_nearest_number_of_heads_of_even_width(channels, asked, heads):
    sentence = (
        f"1: {channels} channels do not divide into num_heads ({asked}) heads of an even width and get {heads} heads"
    )
    with pytest.warns(UserWarning, match=re.escape(sentence)):
        converted = sasa.convert(nn.Sequential(nn.ReLU(), conv(3, channels)), num_heads=asked)
    assert converted[1].num_heads == heads
    assert converted[1].position == "relative"


def test_an_odd_number_of_channels_has_no_relative_positions():
    sentence = (
        "head: 255 channels do not divide into num_heads (8) heads and get 5 heads and cannot be halved for rows and "
        'columns and get position="none" in place of "relative"'
    )
    network = nn.Sequential()
    network.add_module("head", conv(4, 255))
    with pytest.warns(UserWarning, match=re.escape(sentence)):
        converted = sasa.convert(network, kernel_size=3)
    assert (converted.head.num_heads, converted.head.position) == (5, "none")
    assert converted.conversion.replacements[0].after.endswith("3 x 3, 5 heads, position none")
    with pytest.warns(UserWarning, match="1 channels cannot be halved"):
        assert sasa.convert(conv(4, 1), num_heads=1).position == "none"


def test_without_relative_positions_heads_may_be_odd():
    assert sasa.convert(conv(4, 15), num_heads=5, position="none").num_heads == 5
    with pytest.warns(UserWarning, match=r"15 channels do not divide into num_heads \(8\) heads and get 5 heads"):
        assert sasa.convert(conv(4, 15), position="absolute").num_heads == 5


def test_one_warning_for_each_number_of_channels():
    with pytest.warns(UserWarning, match="channels do not divide") as caught:
        sasa.convert(nn.Sequential(conv(4, 20), conv(20, 20), conv(20, 12), conv(12, 16)))
    assert [str(w.message).split(" channels")[0] for w in caught] == ["0, 1: 20", "2: 12"]
    assert {Path(w.filename).name for w in caught} == {"test_convert.py"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: setattr(c, "padding_mode", "circular"),
            'padding_mode="circular" is not carried over: the attention has padding="mask"',
        ),
        (nn.utils.parametrizations.spectral_norm, "the parametrization of the weights is not carried over"),
        (lambda c: c.register_forward_pre_hook(lambda *_: None), "a hook is not carried over"),
        (lambda c: c.register_forward_hook(lambda *_: None), "a hook is not carried over"),
        (lambda c: c.register_full_backward_hook(lambda *_: None), "a hook is not carried over"),
        (lambda c: nn.utils.prune.random_unstructured(c, "weight", 0.5), "a hook is not carried over"),
        (lambda c: setattr(c, "forward", torch.relu), "the replaced forward is not carried over"),
        (
            lambda c: c.add_module("norm", nn.BatchNorm2d(16)),
            "what its forward does with its modules (norm) is not carried over",
        ),
    ],
)
def test_a_warning_names_what_is_not_carried_over(change, sentence):
    network = nn.Sequential(conv(8, 16), conv(16, 16), conv(16, 16))
    change(network[0])
    change(network[2])
    with pytest.warns(UserWarning, match=re.escape(f"0, 2: {sentence}")) as caught:
        sasa.convert(network, padding="mask")
    assert len(caught) == 1
    assert Path(caught[0].filename).name == "test_convert.py"


class Calling(nn.Module):
    """A network that calls its convolution through functions which it stores."""

    def __init__(self, **functions):
        super().__init__()
        self.conv = conv()
        for name, make in functions.items():
            setattr(self, name, make(self))


@pytest.mark.parametrize(
    "make",
    [
        lambda self: lambda x: self.conv(x),
        lambda self: lambda x, conv=self.conv: conv(x),
        lambda self: (lambda method: lambda x: method(x))(self.conv.forward),
    ],
)
def test_a_warning_names_functions_that_call_the_original(make):
    sentence = "the network itself: the function in step refers to modules of the original network"
    with pytest.warns(UserWarning, match=sentence) as caught:
        sasa.convert(Calling(step=make))
    assert Path(caught[0].filename).name == "test_convert.py"


def test_a_warning_names_hooks_that_call_the_original():
    network = nn.Sequential(conv(), nn.ReLU())
    network[1].register_forward_hook(lambda module, inputs, output: network[0](output))
    with pytest.warns(UserWarning, match="1: the function in _forward_hooks refers to modules of the original"):
        sasa.convert(network)


def test_methods_and_other_functions_are_copied_in_silence():
    """Warnings are errors in tests."""
    seen = []
    network = Calling(step=lambda self: self._call_impl, other=lambda self: lambda x: seen.append(x))
    network.register_forward_hook(lambda *_: seen.append(1))
    assert sasa.convert(network).step.__self__ is not network


# The report


class WithInside(nn.Conv2d):
    """A convolution that contains others, as deformable ones do."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.offset, self.mask = conv(16, 16), conv(16, 16, groups=4)


def test_convolutions_inside_a_replaced_one_are_not_in_the_report():
    network = nn.Sequential(WithInside(16, 16, 3, padding=1), conv())
    with pytest.warns(UserWarning, match=r"0: what its forward does with its modules \(offset, mask\)"):
        converted = sasa.convert(network, grouped="keep")
    assert [r.name for r in converted.conversion.replacements] == ["0", "1"]
    assert converted.conversion.kept == ()


def test_conversion_reports_replaced_and_kept_layers():
    network = nn.Sequential(conv(3, 16, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 2, (2, 1)), conv(groups=4))
    converted = sasa.convert(network, grouped="keep", kernel_size=5, num_heads=4)
    first, second = 3 * 16 * 3 + 2 * 4 * 5 * 2, 3 * 16 * 17 + 2 * 4 * 5 * 2
    assert converted.conversion == Conversion(
        (
            Replacement("0", "Conv2d 3 -> 16, 3 x 3", "LocalAttention2d 3 -> 16, 5 x 5, 4 heads", 432, first),
            Replacement(
                "2",
                "Conv2d 16 -> 16, 2 x 2, stride 2 x 1",
                "FittedAttention2d 16 -> 16, 5 x 5, stride 2 x 1, 4 heads",
                1040,
                second,
            ),
        ),
        (Kept("3", "Conv2d 16 -> 16, 3 x 3, groups 4", 'grouped="keep"'),),
        432 + 1040 + 592,
        first + second + 592,
    )
    table = str(converted.conversion).splitlines()
    assert len(table) == 5
    assert re.split("  +", table[1]) == [
        "0",
        *dataclasses.astuple(converted.conversion.replacements[0])[1:3],
        "432",
        "224",
    ]
    assert table[3].endswith('kept: grouped="keep"')
    assert re.split("  +", table[4]) == ["whole network", "2 replaced, 1 kept", "2,064", f"{first + second + 592:,}"]


# Which


@pytest.mark.parametrize(
    ("where", "replaced"),
    [
        ("body.*", ["body.0", "body.1"]),
        (["stem", "*.1"], ["stem", "body.1"]),
        (("stem",), ["stem"]),
        (lambda name, layer: layer.in_channels > 3, ["body.0", "body.1"]),
        (None, ["stem", "body.0", "body.1"]),
    ],
)
def test_where_chooses(where, replaced):
    network = nn.ModuleDict({"stem": conv(3, 16), "body": nn.Sequential(conv(), conv(stride=2))})
    converted = sasa.convert(network, where=where)
    assert [r.name for r in converted.conversion.replacements] == replaced
    assert spatial(converted) == [name for name in ("stem", "body.0", "body.1") if name not in replaced]
    assert {k.reason for k in converted.conversion.kept} <= {"not chosen by where"}


def test_where_sees_the_convolutions_of_the_original():
    network = nn.Sequential(conv(), conv())
    assert spatial(sasa.convert(network, where=lambda _, layer: layer is network[1])) == ["0"]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("layer9.*", "where='layer9.*' matches none of the 8 convolutions: 0, 1, 2, 3, 4, 5 and 2 more"),
        (["0", "nothing"], "where='nothing' matches none of the 8"),
        (lambda name, layer: False, "where chooses none of the 8 convolutions: 0, 1, 2, 3, 4, 5 and 2 more"),
        (3, "where must be a function of (name, convolution) or patterns of names, got 3"),
        ([], "where must be a function of (name, convolution) or patterns of names, got []"),
        ([3], "where must be a function of (name, convolution) or patterns of names, got [3]"),
    ],
)
def test_where_that_chooses_nothing(where, sentence):
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(nn.Sequential(*(conv() for _ in range(8))), where=where)


# Groups, and what is refused


def test_grouped_convolutions():
    network = nn.Sequential(conv(), conv(groups=16), conv(groups=2))
    sentence = (
        'attention mixes all channels, and 2 of 3 convolutions have groups > 1: 1, 2; choose grouped="replace" (full '
        'attention in their place), grouped="keep", or leave them out with where='
    )
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(network)
    assert spatial(sasa.convert(network, grouped="replace")) == []
    assert spatial(sasa.convert(network, where="0")) == ["1", "2"]
    kept = sasa.convert(network, grouped="keep")
    assert spatial(kept) == ["1", "2"]
    assert torch.equal(kept[1].weight, network[1].weight)
    assert kept.conversion.kept == (
        Kept("1", "Conv2d 16 -> 16, 3 x 3, groups 16", 'grouped="keep"'),
        Kept("2", "Conv2d 16 -> 16, 3 x 3, groups 2", 'grouped="keep"'),
    )


def test_only_grouped_convolutions_to_keep():
    with pytest.raises(
        ArgumentError, match='grouped="keep" leaves nothing to convert: all 1 chosen convolutions have groups > 1'
    ):
        sasa.convert(nn.Sequential(conv(groups=16), conv()), where="0", grouped="keep")


def test_dilation_is_refused_by_name():
    network = nn.Sequential(conv(), conv(dilation=2))
    sentence = (
        "1 has dilation (2, 2) with kernel_size (3, 3): attention has no dilated windows; leave it out with where="
    )
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(network)
    assert spatial(sasa.convert(network, where=lambda _, layer: layer.dilation == (1, 1))) == ["1"]
    assert spatial(sasa.convert(nn.Sequential(conv(), conv(groups=2, dilation=2)), grouped="keep")) == ["1"]


def test_lazy_convolutions_are_refused():
    with pytest.raises(
        ArgumentError, match="run the network once before converting it, these layers are not yet initialised: 0"
    ):
        sasa.convert(nn.Sequential(nn.LazyConv2d(8, 3)))


class Doubling(nn.Conv2d):
    def forward(self, input):
        return F.interpolate(super().forward(input), scale_factor=2)


class Failing(nn.Conv2d):
    def forward(self, input):
        raise RuntimeError("needs a mask")


def test_subclasses_that_are_not_convolutions_are_refused():
    sentence = "0 is a Doubling that maps a side of 6 to shape (1, 8, 12, 12), of 7 to (1, 8, 14, 14): Doubling"
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(nn.Sequential(Doubling(4, 8, 3, padding=1)))
    with pytest.raises(ArgumentError, match=r"0 is a Failing whose forward fails on meta tensors \(needs a mask\)"):
        sasa.convert(nn.Sequential(Failing(4, 8, 3)))


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Sequential(nn.Conv2d(3, 3, 1)), LocalAttention2d(8, 16)])
def test_nothing_to_convert(model):
    sentence = f"{type(model).__name__} has no nn.Conv2d with a kernel larger than 1: nothing to convert"
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel_size": 4}, "kernel_size (4) must be odd"),
        ({"num_heads": 0}, "num_heads must be a positive integer, got 0"),
        ({"grouped": "yes"}, "grouped must be one of refuse, replace, keep; got 'yes'"),
        ({"padding": 1}, "padding (1) is not a number of pixels here"),
        ({"position": "learned"}, "position must be one of relative, absolute, none; got 'learned'"),
    ],
)
def test_options_that_do_not_fit(options, sentence):
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        sasa.convert(conv(), **options)


@pytest.mark.parametrize("model", [conv().state_dict(), nn.Conv2d, [conv()]])
def test_only_modules_are_converted(model):
    with pytest.raises(ArgumentError, match=f"model must be a module, got {type(model).__name__}"):
        sasa.convert(model)
