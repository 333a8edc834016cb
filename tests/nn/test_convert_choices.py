"""`sasa.convert`: the choice of convolutions, and errors."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sasa
from convolutions import conv, spatial
from sasa import LocalAttention2d
from sasa.errors import ArgumentError
from sasa.nn.conversion import Kept

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
